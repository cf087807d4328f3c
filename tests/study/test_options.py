"""Options are declared once: the command line, the Python functions and study files are generated from the fields."""

import inspect
from pathlib import Path

import click
import pytest

import automl_cxr
from automl_cxr import cli
from automl_cxr.api.keywords import with_keywords
from automl_cxr.data.data_options import DataOptions
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.option_fields import Scope, options_of
from automl_cxr.study.options import SearchOptions, SpliceOptions, study_file_keys
from automl_cxr.study.spec import StudySpec

OPTIONS = [(SearchOptions, cli.search, automl_cxr.search), (SpliceOptions, cli.splice, automl_cxr.splice)]


@pytest.mark.parametrize(("options_class", "command", "_function"), OPTIONS)
def test_every_option_is_on_the_command_line(options_class, command, _function):
    by_name = {parameter.name: parameter for parameter in command.params}
    for option in options_of(options_class):
        assert by_name[option.name].opts == [f"--{option.flag}"]
        assert by_name[option.name].section == option.section
        assert by_name[option.name].help.startswith(option.help)


@pytest.mark.parametrize(("options_class", "_command", "function"), OPTIONS)
def test_every_option_is_a_documented_keyword(options_class, _command, function):
    parameters = inspect.signature(function).parameters
    for option in options_of(options_class):
        assert parameters[option.name].default == getattr(options_class(), option.name)
        assert f"\n    {option.name}: " in inspect.getdoc(function)
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert "{options}" not in function.__doc__


def test_the_help_texts_name_keywords_in_python_and_flags_on_the_command_line():
    top = next(option for option in options_of(SearchOptions) if option.name == "warm_start_top")
    assert "--warm-start" in top.command_line_help
    keywords = {"warm-start": "warm_start"}
    assert "``warm_start``" in top.python_help(keywords)
    assert "--" not in top.python_help(keywords)
    seconds = next(option for option in options_of(SearchOptions) if option.name == "seconds")
    assert "In seconds." in seconds.python_help({})
    assert "In seconds." not in seconds.command_line_help


def test_study_files_accept_every_option_except_set():
    flags = {option.flag for option in options_of(SearchOptions)}
    assert set(study_file_keys()) == flags - {"set"} | {"together"}


def test_settings_of_the_study_are_fields_of_its_specification():
    settings = [option.setting for option in options_of(SearchOptions) if option.setting]
    assert len(settings) == len(set(settings))
    assert set(settings) <= set(StudySpec.__dataclass_fields__)
    assert all(option.scope is Scope.STUDY for option in options_of(SearchOptions) if option.setting)


def test_an_unknown_keyword_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"Unknown keyword 'trails'\. Did you mean 'trials'\?"):
        automl_cxr.search(trails=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'finetune'"):
        automl_cxr.splice("a", "b", finetun=3)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"trials": 0}, "trials must be above 0; received 0"),
        ({"seconds": -1.0}, "seconds must be above 0"),
        ({"keep_models": 0}, "keep_models must be above 0"),
        ({"batch_trials": 0}, "batch_trials must be above 0"),
        ({"executor": "rya"}, "Did you mean 'ray'"),
        ({"executor": "inline", "concurrency": 2, "memory_per_trial": 1}, "--concurrency, --memory-per-trial needs"),
    ],
)
def test_invalid_values_are_refused(keywords, message):
    with pytest.raises(UsageError, match=message):
        SearchOptions(**keywords)


def test_one_name_is_a_list_of_one_name_and_no_name_is_the_default():
    assert SearchOptions(objective="accuracy").objective == ("accuracy",)
    assert SearchOptions(objective=[]).objective is None
    assert SearchOptions(data=Path("images")).data == "images"


def test_keywords_take_precedence_over_options():
    options = SearchOptions(trials=3, seed=1)
    assert with_keywords(SearchOptions, options, {"trials": 5, "epochs": None}) == SearchOptions(trials=5, seed=1)


def test_views_are_a_fixed_hyperparameter():
    assert SearchOptions().hyperparameters is None
    assert SearchOptions(fixed={"dropout": 0.1}, views=4).hyperparameters == {"dropout": 0.1, "views": 4}


def test_a_splice_passes_options_to_its_study():
    options = SpliceOptions(seed=4, data="images", fixed={"projection": 8}, finetune=2, name="pairs", runs="runs")
    assert options.study_options() == SearchOptions(seed=4, data="images", fixed={"projection": 8})
    with pytest.raises(UsageError, match="finetune must be 0 or more"):
        SpliceOptions(finetune=-1)


@pytest.mark.parametrize("arguments", [["--batch-trials", "4"], ["--together", "4"]])
def test_the_former_name_of_an_option_is_accepted(arguments):
    context = cli.search.make_context("search", arguments)
    assert context.params["batch_trials"] == 4
    assert "--together" not in cli.search.get_help(click.Context(cli.search))


def test_typed_options_take_precedence_over_a_study_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('together = 3\ntrials = 2\nobjective = ["macro_f1", "parameters"]')
    for order in (["--study", str(path), "--trials", "7"], ["--trials", "7", "--study", str(path)]):
        params = cli.search.make_context("search", order).params
        assert (params["batch_trials"], params["trials"], params["objective"]) == (3, 7, ("macro_f1", "parameters"))
    assert cli.search.make_context("search", ["--together", "5", "--study", str(path)]).params["batch_trials"] == 5
    assert cli.search.make_context("search", ["--study", str(path), "--together", "5"]).params["batch_trials"] == 5


def test_the_choices_of_reading_data_are_options_with_the_same_names():
    settings = {option.name: option.setting for option in options_of(SearchOptions)}
    assert {name: settings[name] for name in DataOptions.names()} == {name: name for name in DataOptions.names()}
    assert set(DataOptions.names()) <= {option.name for option in options_of(SpliceOptions)}
