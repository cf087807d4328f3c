# A server for one classifier. Build it from the wheel of a checkout:
#
#     pip wheel --no-deps --wheel-dir dist .
#     docker build --tag automl-cxr-serve .
#     docker run --rm --publish 127.0.0.1:8000:8000 --env AUTOML_CXR_TOKEN --volume "$PWD/automl_runs:/runs:ro" \
#         automl-cxr-serve STUDY
#
# tests/serving/run_dockerfile.py runs the same steps without Docker.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=3 AUTOML_CXR_CACHE=/tmp/automl-cxr
COPY dist/automl_cxr-*.whl /tmp/wheel/
RUN pip install --no-cache-dir "$(echo /tmp/wheel/automl_cxr-*.whl)[serve,sr]" && rm -r /tmp/wheel

RUN useradd --create-home --uid 10001 server
USER server
WORKDIR /home/server
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# A container is reached from other machines, so that the server needs AUTOML_CXR_TOKEN or --token-file.
ENTRYPOINT ["automl-cxr", "serve", "--host", "0.0.0.0", "--port", "8000", "--runs", "/runs"]
