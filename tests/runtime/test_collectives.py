"""`single_process`: what the collectives see inside it, without starting processes."""

import pytest
import torch
import torch.distributed as dist

from maskbench.runtime.collectives import (
    all_reduce_max,
    all_reduce_sum,
    is_rank0,
    process_count,
    rank,
    run_on_every_rank,
    run_on_rank0,
    single_process,
    split_among_ranks,
    world_size,
)


@pytest.fixture
def last_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is rank 3 of 4; a collective that talks to the others would fail."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "get_rank", lambda: 3)


@pytest.mark.usefixtures("last_of_four")
def test_the_group_is_this_process_alone_until_the_outer_block_ends() -> None:
    assert (world_size(), process_count(), rank(), is_rank0()) == (4, 4, 3, False)
    with single_process():
        with pytest.raises(KeyError), single_process():
            raise KeyError
        assert (world_size(), process_count(), rank(), is_rank0()) == (1, 4, 0, True)
    assert (world_size(), rank()) == (4, 3)


@pytest.mark.usefixtures("last_of_four")
def test_inside_it_nothing_waits_for_the_others() -> None:
    values = torch.ones(3)
    with single_process():
        assert all_reduce_sum(values) is values and all_reduce_max(2, 5) == [2, 5]
        assert split_among_ranks(8) is None
        assert run_on_rank0(world_size) == run_on_every_rank(world_size) == 1
    assert split_among_ranks(8) == [(0, 2), (2, 4), (4, 6), (6, 8)]
