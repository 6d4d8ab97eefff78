"""Masks of trees are made only where a model asks for what trees can give."""

import pytest
import torch
from transformers import masking_utils

from clair_apo.apo.forward.tree_mask import (
    TreeMask,
    UnknownMaskError,
    make_mask,
    read_mask,
    row_of_trees,
)

LENGTHS = torch.tensor([[[[4, 3, 2], [5, 0, 6]]]])
WINDOWS = (1, 2, 4, 7, 19, 20, 21, 500)


def made(mask_function, size=20, **options):
    with row_of_trees(LENGTHS):
        return make_mask(q_length=size, kv_length=size, mask_function=mask_function, **options)


def test_a_causal_mask_is_the_lengths_of_the_parts():
    mask = made(masking_utils.causal_mask_function)
    assert read_mask(mask) == TreeMask(((4, 3, 2), (5, 0, 6)), None)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_goes_with_them(window):
    function = masking_utils.sliding_window_causal_mask_function(window)
    mask = made(function, local_size=window)
    assert read_mask(mask).window == window
    assert read_mask(mask.clone()) == read_mask(mask), "also where the mask was copied"


def bidirectional(batch, head, query, key):
    return (query >= 0) & (key >= 0)


@pytest.mark.parametrize(
    ("function", "size"),
    [
        (masking_utils.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long)), 4),
        (masking_utils.sliding_window_causal_mask_function(4), None),
        (masking_utils.sliding_window_causal_mask_function(4), 5),
        (masking_utils.sliding_window_causal_mask_function(5), 4),
        (masking_utils.causal_mask_function, 4),
        (bidirectional, None),
        (lambda batch, head, query, key: key < query, None),
    ],
)
def test_another_mask_is_refused(function, size):
    with pytest.raises(UnknownMaskError, match="neither causal nor a sliding window"):
        made(function, local_size=size)


def test_a_mask_that_a_model_changed_by_itself_is_refused():
    with pytest.raises(UnknownMaskError, match="one of its own"):
        made(masking_utils.causal_mask_function, use_vmap=True)


def test_another_length_than_that_of_the_row_is_refused():
    with pytest.raises(UnknownMaskError, match="from 19 to 19 places in a row of 20 tokens"):
        made(masking_utils.causal_mask_function, size=19)


def test_no_mask_is_made_outside_of_a_row():
    function = masking_utils.causal_mask_function
    with pytest.raises(UnknownMaskError, match="something else"):
        make_mask(q_length=20, kv_length=20, mask_function=function)


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 1, 5, 5), torch.zeros(1, 4)])
def test_what_is_no_such_mask_is_not_read_as_one(mask):
    with pytest.raises(UnknownMaskError, match="no mask that it asked for"):
        read_mask(mask)


def test_layers_with_the_same_window_share_one_mask():
    function = masking_utils.sliding_window_causal_mask_function(4)
    with row_of_trees(LENGTHS):
        masks = [
            make_mask(q_length=20, kv_length=20, mask_function=function, local_size=4)
            for _ in range(2)
        ]
    assert masks[0] is masks[1]
