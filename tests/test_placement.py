"""Which casts fit which clusters, and what the refusal says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.placement import Bundle, bundles, check
from cleave.config.roles import RolesConfig
from cleave.errors import ConfigError


def roles(**solver: float) -> RolesConfig:
    return RolesConfig.model_validate({"solver": {"model": "hf:x", "resources": solver}})


def test_default_cast_fits_one_cpu() -> None:
    check(bundles(RolesConfig()), [{"CPU": 1.0}])


def test_too_many_cpus_name_the_role_and_a_value_that_fits() -> None:
    with pytest.raises(ConfigError, match=r"solver actors.*2\.5 CPU.*roles\.solver\.resources\.num_cpus=1 or start Ray with more CPUs\.$"):
        check(bundles(roles(num_cpus=2.5)), [{"CPU": 2.0}])


def test_suggested_value_is_accepted() -> None:
    with pytest.raises(ConfigError, match=r"num_cpus=0\.66"):
        check(bundles(roles(num_cpus=4)), [{"CPU": 1.33}])
    check(bundles(roles(num_cpus=0.66)), [{"CPU": 1.33}])


def test_missing_gpu() -> None:
    with pytest.raises(ConfigError, match=r"0 GPU; set roles\.solver\.resources\.num_gpus=0 or add nodes with GPUs"):
        check(bundles(roles(num_gpus=1)), [{"CPU": 8.0}])


def test_bundle_must_fit_on_one_node() -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 2.0}]
    check(bundles(roles(num_cpus=2)), nodes)
    with pytest.raises(ConfigError, match="its 2 nodes have together 4 CPU"):
        check(bundles(roles(num_cpus=3)), nodes)


def test_too_many_replicas() -> None:
    with pytest.raises(ConfigError, match=r"cannot place 4 of 6 solver.*num_replicas=2"):
        check(bundles(roles(num_cpus=1, num_replicas=6)), [{"CPU": 2.0}])


def test_empty_cluster() -> None:
    with pytest.raises(ConfigError, match="cannot place"):
        check(bundles(RolesConfig()), [])


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.sampled_from([0.0, 1.0])), max_size=3),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=3),
)
def test_nothing_is_accepted_beyond_the_totals(wanted: list[tuple[int, float, float]], nodes: list[tuple[int, int]]) -> None:
    cast = [Bundle("solver", *each) for each in wanted]
    cluster = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    try:
        check(cast, cluster)
    except ConfigError:
        return
    assert sum(bundle.cpus * bundle.count for bundle in cast) <= sum(cpus for cpus, _ in nodes)
    assert sum(bundle.gpus * bundle.count for bundle in cast) <= sum(gpus for _, gpus in nodes)
