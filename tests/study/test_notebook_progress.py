"""Progress in a notebook: one output of the cell that is updated. The browser's side is a stand-in for IPython."""

import sys
from types import ModuleType

import pytest

from automl_cxr import notebook, notebook_bars
from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.notebook_bars import notebook_bar, with_notebook_bar
from automl_cxr.study import progress_views
from automl_cxr.study.budget import Budget
from automl_cxr.study.progress import SearchProgress
from automl_cxr.study.runner import run_search


class Cell:
    """The outputs of a notebook cell, each as the list of its contents over time."""

    def __init__(self):
        self.outputs = []

    def display(self, html, *, display_id):
        assert display_id
        contents = [html]
        self.outputs.append(contents)
        handle = type("Handle", (), {})()
        handle.update = contents.append
        return handle


@pytest.fixture
def cell(monkeypatch):
    cell = Cell()
    display = ModuleType("IPython.display")
    display.HTML, display.display = str, cell.display
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for module in (notebook_bars, progress_views):
        monkeypatch.setattr(module, "is_notebook", lambda: True)
    return cell


def test_without_a_kernel_no_notebook_is_found():
    assert not notebook.is_notebook()


def test_a_search_is_one_output_that_is_updated(cell, prepare, quick_objective, monkeypatch):
    monkeypatch.setattr(notebook, "_SECONDS_BETWEEN_UPDATES", 0)
    prepared, budget = prepare(), Budget(n_trials=8, seconds=None, keep_models=3)

    def fail(proposal, epoch):
        if proposal.number == 7:
            raise ValueError("<script>alert(1)</script>")

    with SearchProgress(prepared.store, budget) as progress:
        progress.print_study(prepared)
        run_search(
            prepared.store,
            prepared.images,
            weights_folder=None,
            sampler="random",
            budget=budget,
            listener=progress,
            execute=lambda real, proposer: run_inline(quick_objective(real, between_epochs=fail), proposer),
        )
    [contents] = cell.outputs
    assert len(contents) > 16  # starts, epochs and ends
    last = contents[-1]
    assert "Study &#x27;s&#x27; (new)" in last
    assert 'value="1.0000"' in last
    assert "8/8 done, 0 pruned, 1 failed" in last
    assert "<script>" not in last
    assert "trial 2 " not in last  # only the last events
    assert "trial 6 complete" in last


def test_updates_are_limited_and_the_last_one_is_shown(cell):
    with notebook_bar("<b>reading</b>") as on_progress:
        for n_done in range(1, 1001):
            on_progress(n_done, 1000)
    [contents] = cell.outputs
    assert len(contents) < 20
    assert "&lt;b&gt;reading&lt;/b&gt;: 1,000 of 1,000" in contents[-1]


def test_functions_show_a_bar_unless_the_caller_gives_one(cell):
    @with_notebook_bar("working")
    def work(n, *, on_progress=None):
        on_progress(n, n)

    work(3)
    assert len(cell.outputs) == 1
    assert "working: 3 of 3" in cell.outputs[0][-1]
    calls = []
    work(3, on_progress=lambda *counts: calls.append(counts))
    assert calls == [(3, 3)]
    assert len(cell.outputs) == 1


def test_work_without_progress_shows_nothing(cell):
    with notebook_bar("reading"):
        pass
    assert cell.outputs == []
