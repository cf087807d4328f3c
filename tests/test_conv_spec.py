import pytest

from automl_cxr.conv_spec import BatchNorm, Convolution, Dropout, LayerNorm, Pool, Relu, format_conv_spec, parse_conv_spec
from automl_cxr.errors import UsageError


@pytest.mark.parametrize(
    ("word", "layer"),
    [
        ("conv32k11", Convolution(32, 11, 1, "same", has_relu=True)),
        ("conv64k5s2", Convolution(64, 5, 2, "same", has_relu=True)),
        ("conv96k11s4v", Convolution(96, 11, 4, "valid", has_relu=True)),
        ("conv8k3vl", Convolution(8, 3, 1, "valid", has_relu=False)),
        ("conv32k3 pool2", Pool(2, 2, "valid")),
        ("conv32k3 pool2s1", Pool(2, 1, "valid")),
        ("conv32k3 pool3s2p", Pool(3, 2, "same")),
        ("conv32k3 bn", BatchNorm()),
        ("conv32k3 ln", LayerNorm()),
        ("conv32k3 relu", Relu()),
        ("conv32k3 drop0.25", Dropout(0.25)),
    ],
)
def test_a_word_describes_a_layer(word, layer):
    assert parse_conv_spec(word)[-1] == layer


@pytest.mark.parametrize(
    "word", ["conv32", "conv0k3", "conv32k0", "conv32k3s0", "pool", "pool2v", "drop1.5", "drop1", "dense8", "Conv8k3"]
)
def test_the_error_names_an_invalid_word(word):
    with pytest.raises(UsageError, match=word):
        parse_conv_spec(f"conv8k3 {word}")


def test_a_convolution_is_required():
    with pytest.raises(UsageError, match="include a convolution"):
        parse_conv_spec("pool2 bn")


@pytest.mark.parametrize(
    "text", ["conv32k11 conv64k5s2 pool2 bn", "conv96k11s4v pool3s2p relu", "conv8k3vl ln drop0.25 pool2s1 drop0.000001"]
)
def test_formatting_inverts_parsing(text):
    assert format_conv_spec(parse_conv_spec(text)) == text
