"use strict";

const element = (id) => document.getElementById(id);
let token = "";          // kept until the page is closed
let served = null;       // the description of the classifier
let chosen = null;       // the file that is shown
let pending = null;      // the file that was dropped before the token was entered
let latest = 0;          // number of the latest request; answers to earlier ones are ignored

function show(message, isProblem = false) {
  element("status").textContent = message;
  element("status").classList.toggle("problem", isProblem);
}

async function request(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("The server does not answer, or the file cannot be read.");
  });
  if (response.ok) return response;
  if (response.status === 401) {
    element("login").hidden = false;
    throw new Error(token ? "The server has another token." : "Enter the token of the server.");
  }
  const body = await response.json().catch(() => ({}));
  throw new Error(typeof body.detail === "string" ? body.detail : `The server answered with status ${response.status}.`);
}

async function describe() {
  served = await (await request("classifier")).json();
  element("login").hidden = true;
  element("served").textContent = `${served.classifier}, study ${served.study}`;
  element("versions").textContent = `automl_cxr ${served.versions["automl-cxr"] || ""}`;
  element("class-title").textContent = served.task === "findings" ? "Finding" : "Class";
  element("hint").hidden = !served.heatmaps;
  show("");
}

function upload(file) {
  const form = new FormData();
  form.append("file", file);
  return { method: "POST", body: form };
}

async function predict(file, explain) {
  const number = ++latest;
  const query = new URLSearchParams({ heatmap: "true", ...(explain ? { explain } : {}) });
  show(`Predicting ${file.name} ...`);
  try {
    if (served === null) await describe();
    if (file.size > served.max_upload_bytes) {
      throw new Error(`The file has ${file.size.toLocaleString()} bytes; at most ${served.max_upload_bytes.toLocaleString()} are accepted.`);
    }
    const answer = await (await request(`predict?${query}`, upload(file))).json();
    if (number !== latest) return;
    chosen = file;
    draw(answer);
    show(file.name);
  } catch (error) {
    if (number !== latest) return;
    pending = file;
    element("result").hidden = true;
    show(error.message, true);
  }
}

function draw(answer) {
  element("result").hidden = false;
  element("radiograph").src = picture(answer.radiograph_png);
  element("map").hidden = answer.heatmap === null;
  if (answer.heatmap !== null) {
    element("heatmap").src = picture(answer.heatmap.overlay_png);
    const outside = answer.heatmap.outside;
    element("map-caption").textContent = `Grad-CAM for ${answer.heatmap.explained}` +
      (outside === null ? "" : `; ${Math.round(100 * outside)} % of the evidence in corners and borders`);
  }
  element("decision").textContent = answer.decision.join(", ") || "No finding reaches its threshold";
  element("abstention").textContent = describeAbstention(answer.abstention);
  element("probabilities").replaceChildren(...Object.entries(answer.probabilities).map(([name, p]) => row(name, p, answer)));
  element("warnings").replaceChildren(...answer.warnings.map((text) => textElement("li", text)));
  element("report").hidden = !answer.has_report;
}

const picture = (content) => `data:image/png;base64,${content}`;

function describeAbstention(abstention) {
  if (abstention === null) return "";
  const names = abstention.undecided.length ? abstention.undecided : abstention.plausible;
  if (!abstention.abstains) return `Decided at a coverage of ${Math.round(100 * abstention.coverage)} %.`;
  return `The classifier abstains at a coverage of ${Math.round(100 * abstention.coverage)} %: ` +
    (names.length ? `${names.join(", ")} cannot be decided.` : "no class is plausible.");
}

function textElement(kind, text) {
  const created = document.createElement(kind);
  created.textContent = text;
  return created;
}

function row(name, probability, answer) {
  const line = document.createElement("tr");
  line.classList.toggle("decided", answer.decision.includes(name));
  line.classList.toggle("explained", answer.heatmap !== null && answer.heatmap.explained === name);
  const button = textElement("button", name);
  button.type = "button";
  button.addEventListener("click", () => predict(chosen, name));
  const title = document.createElement("td");
  title.append(served.heatmaps ? button : name);
  const number = textElement("td", probability.toFixed(3));
  number.className = "number";
  const bar = document.createElement("meter");
  bar.value = probability;
  bar.setAttribute("aria-label", `Probability of ${name}`);
  const cell = document.createElement("td");
  cell.append(bar);
  line.append(title, number, cell);
  return line;
}

async function download() {
  show("Writing the structured report ...");
  try {
    const content = await (await request("predict?format=sr", upload(chosen))).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `${chosen.name.replace(/\.[^.]*$/, "")}_sr.dcm`;
    link.click();
    URL.revokeObjectURL(link.href);
    show(chosen.name);
  } catch (error) {
    show(error.message, true);
  }
}

const drop = element("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) predict(event.dataTransfer.files[0]);
});
element("file").addEventListener("change", (event) => {
  if (event.target.files.length) predict(event.target.files[0]);
  event.target.value = "";
});
element("report").addEventListener("click", download);
element("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = element("token").value.trim();
  try {
    await describe();
    if (pending !== null) predict(pending);
  } catch (error) {
    show(error.message, true);
  }
});
describe().catch((error) => show(error.message, true));
