"""A pass without randomness, so that two ways to the same gradient can be held against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_KEPT = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    torch.dropout,
}
_CENTRES: Mapping[Any, tuple[Callable[..., Any], float]] = {
    torch.randn_like: (torch.zeros_like, 0.0),
    torch.randn: (torch.zeros, 0.0),
    torch.rand_like: (torch.zeros_like, 0.5),
    torch.rand: (torch.zeros, 0.5),
}


class WithoutChance(TorchFunctionMode):
    """Dropout passes everything, noise is its mean, attention drops no weight; layers that draw in other ways still do."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in _KEPT:
            return args[0] if args else kwargs["input"]
        if function in _CENTRES:
            make, centre = _CENTRES[function]
            kwargs.pop("generator", None)
            return make(*args, **kwargs) + centre
        if function is functional.scaled_dot_product_attention:
            if len(args) > 4:
                args = (*args[:4], 0.0, *args[5:])
            else:
                kwargs["dropout_p"] = 0.0
        if function is functional.multi_head_attention_forward:
            kwargs["training"] = False  # read for dropout alone
        return function(*args, **kwargs)
