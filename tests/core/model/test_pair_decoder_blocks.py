"""The decoder in blocks on the CPU against all pairs at once."""

from __future__ import annotations

import pytest
import torch

from gaussianem_core.model import pair_decoder
from gaussianem_core.model.pair_decoder import decode_pairs, decode_pairs_reference


@pytest.mark.parametrize("images, count", [(7, 5), (3, 100), (2, 33), (0, 5), (3, 0)])
def test_blocks_equal_all_pairs_at_once(images: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_decoder, "BLOCK_PAIRS", 16)
    torch.manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    hidden = [normal(8, 8), normal(8, 8)], [normal(8), normal(8)]
    arguments = (normal(images, 8), normal(count, 8), *hidden, normal(12, 8), normal(12), normal(4, 12), normal(4))
    with torch.no_grad():
        found = decode_pairs(*arguments, fused=False)
    assert found.shape == (images, count, 4)
    torch.testing.assert_close(found, decode_pairs_reference(*arguments), rtol=1e-12, atol=1e-12)
