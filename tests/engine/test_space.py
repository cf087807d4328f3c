import math

import numpy as np
import optuna
import pytest

from automl_cxr.engine.base_proposer import suggest
from automl_cxr.engine.parameters import Choice, Float, Int
from automl_cxr.engine.space_toml import parse_space, to_toml
from automl_cxr.errors import SpaceError, UnknownNameError, UsageError
from automl_cxr.study.spaces import load_space, shipped

REPORT_HEAD = """
family = "scratch"
[n_dense]
type = "int"
low = 1
high = 3
[dropout]
type = "float"
low = 0.0
high = 0.5
[dense_units]
type = "int"
low = 1024
high = 4096
step = 512
[learning_rate]
type = "choice"
values = [1e-3, 1e-4, 1e-5]
[loss]
type = "choice"
values = ["ce", "focal"]
[focal_gamma]
type = "float"
low = 0.5
high = 5.0
step = 0.5
when = { loss = ["focal"] }
"""


def sample_with_numpy(space, n):
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(n)]


def sample_with_optuna(space, n):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = []
    for _ in range(n):
        trial = study.ask()
        points.append(space.resolve(lambda parameter, trial=trial: suggest(trial, parameter)))
    return points


LIBRARIES = [sample_with_numpy, sample_with_optuna]


@pytest.mark.parametrize("draw", LIBRARIES)
def test_every_library_draws_exactly_the_values_of_the_space(draw):
    space = parse_space(REPORT_HEAD, name="head")
    points = draw(space, 1500)
    reached = {name: {point[name] for point in points if name in point} for name in space.names if name != "family"}
    assert reached["dense_units"] == {1024, 1536, 2048, 2560, 3072, 3584, 4096}
    assert reached["n_dense"] == {1, 2, 3}
    assert reached["learning_rate"] == {1e-3, 1e-4, 1e-5}
    assert sorted(reached["focal_gamma"]) == pytest.approx([0.5 * k for k in range(1, 11)])
    assert min(reached["dropout"]) < 0.01
    assert max(reached["dropout"]) > 0.49
    for point in points:
        space.check(point)
        assert ("focal_gamma" in point) == (point["loss"] == "focal")
        assert all(type(value) in (int, float, str) for value in point.values())


@pytest.mark.parametrize("draw", LIBRARIES)
@pytest.mark.parametrize("name", shipped("search_spaces"))
def test_shipped_spaces_draw_valid_points_in_every_library(name, draw):
    space = load_space(name)
    points = draw(space, 300)
    for point in points:
        space.check(point)
    for parameter in space.parameters:
        reached = {point[parameter.name] for point in points if parameter.name in point}
        grid = parameter.grid()
        if grid is not None and len(grid) <= 8:
            assert reached == set(grid)


@pytest.mark.parametrize("draw", LIBRARIES)
def test_log_scales_are_uniform_in_the_exponent(draw):
    space = parse_space('[learning_rate]\ntype = "float"\nlow = 1e-5\nhigh = 1e-1\nlog = true', name="lr")
    exponents = [math.log10(point["learning_rate"]) for point in draw(space, 1000)]
    assert np.histogram(exponents, bins=4, range=(-5, -1))[0] == pytest.approx(250, abs=60)


@pytest.mark.parametrize("name", shipped("search_spaces"))
def test_shipped_spaces_contain_their_presets(name):
    space = load_space(name)
    space.check(space.preset())


def test_a_preset_needs_a_default_for_each_active_parameter():
    loss = '[loss]\ntype = "choice"\nvalues = ["ce", "focal"]\ndefault = "{}"\n'
    text = loss + '[focal_gamma]\ntype = "float"\nlow = 0.5\nhigh = 5\nwhen = {{ loss = "focal" }}'
    assert parse_space(text.format("ce"), name="s").preset() == {"loss": "ce"}
    assert parse_space(text.format("focal"), name="s").preset() is None


def test_a_constant_may_be_a_parent():
    text = 'loss = "{}"\n[focal_gamma]\ntype = "float"\nlow = 1\nhigh = 2\nwhen = {{ loss = ["focal"] }}'
    rng = np.random.default_rng(0)
    assert parse_space(text.format("ce"), name="s").sample(rng) == {}
    assert set(parse_space(text.format("focal"), name="s").sample(rng)) == {"focal_gamma"}


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ("low = 1\nhigh = 2", "needs a type"),
        ('type = "integer"\nlow = 1\nhigh = 2', "Unknown type"),
        ('type = "int"\nlow = 1', "has wrong settings"),
        ('type = "int"\nlow = 1\nhigh = 2\nstpe = 1', "Did you mean 'step'"),
        ('type = "int"\nlow = 3\nhigh = 2', "low must not exceed high"),
        ('type = "int"\nlow = 1\nhigh = 6\nstep = 2', "Use 5"),
        ('type = "int"\nlow = 1.0\nhigh = 6', "must be an integer"),
        ('type = "int"\nlow = 1\nhigh = 6\nstep = 0', "step must be above 0"),
        ('type = "float"\nlow = 0.0\nhigh = 1.0\nlog = true', "low above 0"),
        ('type = "float"\nlow = 0.1\nhigh = 1.0\nlog = true\nstep = 0.1', "cannot be combined"),
        ('type = "float"\nlow = nan\nhigh = 1.0', "finite"),
        ('type = "float"\nlow = 0.0\nhigh = inf', "finite"),
        ('type = "float"\nlow = "a"\nhigh = 1.0', "finite number"),
        ('type = "choice"\nvalues = []', "at least one"),
        ('type = "choice"\nvalues = [1, 1]', "must differ"),
        ('type = "choice"\nvalues = [[1]]', "must be numbers"),
        ('type = "int"\nlow = 1\nhigh = 2\ndefault = 3', "not one of its values"),
        ('type = "int"\nlow = 1\nhigh = 2\nwhen = "loss"', "when must name parents"),
        ('type = "int"\nlow = 1\nhigh = 2\nwhen = { loss = ["ce"] }', "must be defined above"),
    ],
)
def test_the_error_of_an_invalid_parameter_has_its_name_and_the_rule(table, rule):
    with pytest.raises(UsageError, match=rule) as caught:
        parse_space(f"[dropout]\n{table}", name="mine")
    assert "dropout" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("not toml at all", "is not TOML"),
        (
            'loss = "ce"\n[focal_gamma]\ntype = "float"\nlow = 1\nhigh = 2\nwhen = { optimizer = ["adam"] }',
            "must be defined above",
        ),
        (
            """
            [loss]
            type = "choice"
            values = ["ce"]
            [focal_gamma]
            type = "float"
            low = 1
            high = 2
            when = { loss = ["focal"] }
            """,
            "is not a value of",
        ),
        ("loss = [1]", "must be a number"),
    ],
)
def test_an_invalid_space_is_rejected(text, rule):
    with pytest.raises(SpaceError, match=rule):
        parse_space(text, name="mine")


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"loss": "ce"}, "needs a value"),
        ({"loss": "ce", "focal_gamma": 1.0}, "not active"),
        ({"loss": "hinge"}, "cannot be"),
        ({"los": "ce"}, "Did you mean 'loss'"),
    ],
)
def test_values_that_are_not_a_point_are_rejected(values, rule):
    space = parse_space(REPORT_HEAD, name="head")
    full = {"n_dense": 1, "dropout": 0.1, "dense_units": 1024, "learning_rate": 1e-3, **values}
    if rule == "needs a value":
        del full["n_dense"]
    with pytest.raises(UsageError, match=rule):
        space.check(full)


def test_booleans_and_numbers_are_different_choices():
    choice = Choice(name="batch_norm", values=(True, False))
    assert choice.contains(True)
    assert not choice.contains(1)
    assert not Int(name="n", low=0, high=1).contains(True)
    assert not Float(name="x", low=0, high=1).contains(True)


def test_the_points_of_a_finite_space_are_enumerated():
    space = parse_space(
        """
[deep]
type = "choice"
values = [true, false]
[depth]
type = "int"
low = 2
high = 6
step = 2
when = { deep = [true] }
[shift]
type = "float"
low = 0
high = 0.3
step = 0.1
""",
        name="finite",
    )
    points = list(space.points())
    assert len(points) == (3 + 1) * 4
    assert points[:2] == [{"deep": True, "depth": 2, "shift": 0.0}, {"deep": True, "depth": 2, "shift": 0.1}]
    assert {name for point in points if not point["deep"] for name in point} == {"deep", "shift"}
    for point in points:
        space.check(point)  # 0 + 3 * 0.1 is not above 0.3
    assert len({space.key(point) for point in points}) == len(points)
    assert [parameter.name for parameter in space.unconditional()] == ["deep", "shift"]
    with pytest.raises(SpaceError, match=r"'x' can be any number from 0 to 1\. Give it a step"):
        parse_space('[x]\ntype = "float"\nlow = 0\nhigh = 1', name="endless").points()


def test_the_key_of_a_point_distinguishes_true_from_one_and_ignores_rounding():
    space = parse_space(
        '[a]\ntype = "choice"\nvalues = [true, 1, 1.0]\n[b]\ntype = "float"\nlow = 0\nhigh = 0.3\nstep = 0.1', name="key"
    )
    assert len({space.key({"a": value, "b": 0.1}) for value in (True, 1, 1.0)}) == 3
    assert space.key({"a": 1, "b": 0.1 + 0.2}) == space.key({"a": 1, "b": 0.3})


class TestLoading:
    def test_a_custom_space_is_read_by_its_path(self, tmp_path):
        path = tmp_path / "my space.toml"
        path.write_text('[dropout]\ntype = "float"\nlow = 0\nhigh = 0.9\n')
        assert load_space(str(path)).names == ("dropout",)

    def test_the_error_of_an_unknown_name_suggests_the_nearest_name(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'fused'"):
            load_space("fuse")

    def test_a_missing_file_is_reported(self):
        with pytest.raises(UsageError, match="existing TOML file"):
            load_space("nowhere/mine.toml")

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ('[drop_out]\ntype = "float"\nlow = 0\nhigh = 1', "Did you mean 'dropout'"),
            ('[dropout]\ntype = "float"\nlow = 0\nhigh = 1.5', "from 0 to 0.9"),
            ('[loss]\ntype = "choice"\nvalues = ["ce", "hinge"]', "must be one of"),
            ('family = "fussed"', "must be one of"),
            ("seed = 3", "belongs to the study"),
            ("image_size = 64", "--image-size"),
            ('[epochs]\ntype = "int"\nlow = 1\nhigh = 50', "--epochs"),
            ("", "is empty"),
        ],
    )
    def test_a_space_must_fit_the_hyperparameters(self, tmp_path, text, rule):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        with pytest.raises(UsageError, match=rule):
            load_space(str(path))


PORTFOLIO = """
family = "scratch"
[loss]
type = "choice"
values = ["ce", "focal"]
default = "ce"
[focal_gamma]
type = "float"
low = 0.5
high = 5.0
default = 2.0
when = { loss = ["focal"] }
[dropout]
type = "float"
low = 0.0
high = 0.5
default = 0.1
[[portfolio]]
dropout = 0.4
[[portfolio]]
loss = "focal"
"""


def test_the_points_of_the_portfolio_are_completed_with_defaults():
    space = parse_space(PORTFOLIO, name="p")
    assert space.portfolio == ({"loss": "ce", "dropout": 0.4}, {"loss": "focal", "focal_gamma": 2.0, "dropout": 0.1})
    assert space.preset() == space.portfolio[0]


def test_a_fixed_value_selects_the_points_of_the_portfolio_that_have_it():
    space = parse_space(PORTFOLIO, name="p")
    assert space.fix({"loss": "focal"}).portfolio == ({"focal_gamma": 2.0, "dropout": 0.1},)
    assert space.fix({"dropout": 0.2}).portfolio == ()
    assert space.fix({"dropout": 0.2}).preset() == {"loss": "ce"}
    assert space.fix({"n_dense": 2}).portfolio == space.portfolio


@pytest.mark.parametrize(
    ("point", "rule"),
    [
        ("dropout = 0.9", "'dropout' cannot be 0.9"),
        ("focal_gamma = 1.0", "'focal_gamma' is not active"),
        ("drop_out = 0.1", "Did you mean 'dropout'"),
    ],
)
def test_a_point_outside_of_the_space_is_refused_in_a_portfolio(point, rule):
    with pytest.raises((SpaceError, UnknownNameError), match=rule):
        parse_space(f"{PORTFOLIO}\n[[portfolio]]\n{point}\n", name="p")


@pytest.mark.parametrize("name", [*shipped("search_spaces")])
def test_a_space_is_written_as_toml_and_read_again(name):
    space = load_space(name)
    assert parse_space(to_toml(space), name=space.name) == space
    portfolio = parse_space(PORTFOLIO, name="p")
    assert parse_space(to_toml(portfolio), name="p") == portfolio
