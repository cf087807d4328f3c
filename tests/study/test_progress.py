import io

import pytest

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.study.budget import Budget
from automl_cxr.study.progress import SearchProgress, format_seconds
from automl_cxr.study.runner import run_search


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_formatted(seconds, text):
    assert format_seconds(seconds) == text


def test_a_log_contains_starts_ends_and_the_progress(prepare, quick_objective):
    prepared = prepare()
    budget = Budget(n_trials=3, seconds=None, keep_models=3)
    stream = io.StringIO()

    def fail(proposal, epoch):
        if proposal.number == 1:
            raise ValueError("[bold]no[/bold] such\x1b[2J luck")

    with SearchProgress(prepared.store, budget, stream=stream) as progress:
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
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("Study 's' (new): space scratch, effusion, normal, opacity; 32 pixels; ")
    assert lines[0].endswith("sealed test images, split by patient.")
    assert [line for line in lines if line.endswith("starts")] == [f"trial {number} starts" for number in range(3)]
    best = max(prepared.store.records(), key=lambda record: record.score or 0)
    ends = [line for line in lines if " | " in line]
    assert ends[0].startswith("trial 0 complete: macro_f1 0.")
    assert ends[1].startswith("trial 1 failed: ValueError: [bold]no[/bold] such\\x1b[2J luck | 2/3 done, 0 pruned, 1 failed")
    assert ends[2].endswith(f"3/3 done, 0 pruned, 1 failed, best {best.score:.4f} (trial {best.number})")
