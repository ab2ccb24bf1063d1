import pytest

from n2n_gym.common.quantities import UNITS, read_quantity, show_quantity
from n2n_gym.envs import columns
from n2n_gym.resources import RESOURCES


def test_every_resource_of_the_package_has_a_unit_and_a_column():
    assert {name.split("_")[-1] for name in RESOURCES} < UNITS.keys()
    assert RESOURCES.keys() == columns.RESOURCES.keys()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_params", "1M", 1e6),
        ("num_params", "250000", 250_000),
        ("num_macs", "1.5G", 1.5e9),
        ("onnx_bytes", "1MB", 1e6),
        ("onnx_bytes", "1 MiB", 2**20),
        ("peak_bytes", "64KB", 64_000),
        ("latency_ms", "2ms", 2),
        ("latency_ms", "300us", 0.3),
        ("latency_ms", "12.5 µs", 0.0125),
        ("onnx_bytes", "24.5 kB", 24_500),
        ("num_params", "12k", 12_000),
        ("latency_ms", "2", 2),
        ("boards.pi:latency_ms", "1s", 1000),
        ("energy_mj", "1J", 1000),
        ("accuracy", "95%", 0.95),
        ("accuracy", "0.95", 0.95),
        ("boards.pi:heat", "3e-2", 0.03),
    ],
)
def test_quantities_are_read_in_the_resources_unit(name, text, value):
    assert read_quantity(name, text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("latency_ms", "2sec", "unknown unit 'sec' of latency_ms.*us, µs, ms, s"),
        ("num_params", "1MB", "unknown unit 'MB' of num_params.*K, k, M, G"),
        ("num_params", "many", "num_params must be a number.*'many'.*K, k, M, G"),
        ("num_params", "1.2.3M", r"must be a number.*1\.2\.3M"),
        ("num_params", "-1", "must be a number.*-1"),
        ("accuracy", "", "must be a number.*''.*%"),
        ("boards.pi:heat", "3K", "unknown unit 'K'.*none"),
    ],
)
def test_what_is_no_quantity_is_named_with_the_units_there_are(name, text, said):
    with pytest.raises(ValueError, match=said):
        read_quantity(name, text)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("num_params", 1_234_567, "1.23 M"),
        ("num_params", 999_900, "1 M"),
        ("macs", 12_345, "12.3 k"),
        ("num_params", 12, "12"),
        ("onnx_bytes", 423_456, "423 kB"),
        ("bytes", 0, "0 B"),
        ("latency_ms", 0.25, "250 µs"),
        ("latency_ms", 2.0, "2 ms"),
        ("latency_ms", 0.0001, "0.1 µs"),
        ("accuracy", 0.98765, "98.77%"),
        ("boards.pi:heat", 3.5, "3.5"),
    ],
)
def test_quantities_are_shown_with_few_digits(name, value, shown):
    assert show_quantity(name, value) == shown


def test_more_digits_tell_a_value_from_its_limit():
    assert show_quantity("latency_ms", 2.004, digits=4) == "2.004 ms"
