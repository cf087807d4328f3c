"""The parameter counts of `automl-cxr describe NAME --json` equal the published ones."""

import json

import pytest

from automl_cxr import cli

PARAMETERS = {
    "cxr14-scratch-1": 4_741_188,
    "cxr14-scratch-2": 2_859_588,
    "cxr14-fused": 9_211_847,
    "cxr14-vgg16": 14_714_688 + 132_356,
    "cxr14-vgg16-flatten": 14_714_688 + 6_423_812,
    "cxr14-resnet50": 23_587_712 + 131_396,
    "cxr14-resnet152": 58_370_944 + 131_396,
    "cxr14-chexnet": 7_107_524,
    "chexnet-14": 7_051_854,
    "covid2-cnn": 69_244_610,
    "covid2-resnet50v2": 292_006_402,
    "covid2-concat": 10_437_570,
    "radiography4-1": 5_319_204,
    "radiography4-2": 5_319_204,
    "radiography4-3": 536_660,
    "radiography4-4": 771_172,
    "lung3-1": 3_705_475,
    "lung3-2": 1_968_707,
    "lung3-3": 92_579,
    "pneumonia3-inceptionv3": 21_808_931,
    "pneumonia3-resnet101v2": 42_632_707,
}


@pytest.fixture
def describe(capfd):
    def run_describe(name, *options):
        assert cli._run(["describe", name, *options, "--json"]) == 0
        return json.loads(capfd.readouterr()[0])

    return run_describe


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters(describe, name, parameters):
    summary = describe(name)
    assert summary["parameters"] == parameters
    assert summary["trainable"] + summary["non_trainable"] == parameters
    assert sum(layer["parameters"] for layer in summary["layers"]) == parameters
    assert sum(part["parameters"] for part in summary["parts"].values()) == parameters
    for quantity, count in summary["published"].items():
        assert summary[quantity] == count
    assert summary["multiply_adds"] > parameters / 10
    assert summary["weight_bytes"] == 4 * parameters


def test_the_fused_network_and_its_resizer(describe):
    summary = describe("cxr14-fused")
    assert summary["trainable"] == 9_211_719
    assert summary["parts"]["resizer"]["parameters"] == 12_163
    assert summary["parts"]["resizer"]["parameters"] - summary["parts"]["resizer"]["trainable"] == 128
    shapes = {layer["name"]: layer["output_shape"] for layer in summary["layers"]}
    assert shapes["conv1"] == [55, 55, 96]
    assert shapes["pool1"][0] == 27
    assert shapes["pool2"][0] == 13
    assert shapes["fuse"] == [6, 6, 608]
    plain = describe("cxr14-fused-base")
    assert plain["parameters"] == 9_211_847 - 2048 * (96 + 256)


def test_the_two_branches_of_the_concatenated_network(describe):
    summary = describe("covid2-concat")
    assert summary["non_trainable"] == 8_000
    assert summary["parts"]["backbone"]["parameters"] == 391_104
    assert summary["parts"]["second_backbone"]["parameters"] == 1_651_712
    shapes = {layer["name"]: layer["output_shape"] for layer in summary["layers"]}
    assert shapes["backbone_projection"] == [32, 32, 2048]
    assert shapes["second_backbone_projection"] == [16, 16, 2048]
    assert shapes["vector"] == [4096]


@pytest.mark.parametrize(("n_layers", "trainable"), [(5, 238_148), (9, 400_068), (163, 5_594_244)])
def test_chexnet_with_unfrozen_layers(describe, n_layers, trainable):
    summary = describe(f"cxr14-chexnet-last{n_layers}")
    assert summary["trainable"] == trainable
    assert summary["frozen_phase_trainable"] == 70_020


def test_a_layer_name_and_a_number_unfreeze_the_same_layers(describe):
    assert describe("cxr14-chexnet", "--set", "unfreeze_from=conv4_block1_0_bn")["trainable"] == 5_594_244


@pytest.mark.parametrize(("block", "n_convolutions"), [("block5", 3), ("block3", 9)])
def test_vgg16_unfrozen_by_block(describe, block, n_convolutions):
    summary = describe(f"cxr14-vgg16-{block}")
    trained = [layer for layer in summary["layers"] if layer["kind"] == "Conv2D" and layer["trainable"]]
    assert len(trained) == n_convolutions
    assert summary["frozen_phase_trainable"] == 132_356


@pytest.mark.parametrize(
    ("name", "phase_1"),
    [("pneumonia3-inceptionv3", 6_147), ("pneumonia3-resnet101v2", 6_147), ("cxr14-resnet50-last2", 131_396)],
)
def test_the_first_of_two_phases_trains_the_head(describe, name, phase_1):
    summary = describe(name)
    assert summary["frozen_phase_trainable"] == phase_1
    assert summary["trainable"] > phase_1


def test_the_search_of_heads_starts_with_the_published_one(describe):
    summary = describe("cxr14-scratch-tuned")
    head = 512 * 2560 + 2560 + 2560 * 4 + 4
    assert summary["parts"]["head"]["parameters"] == head
    assert summary["config"]["dropout"] == 0.23847
    assert summary["config"]["learning_rate"] == 1e-4
