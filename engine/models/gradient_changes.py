"""What changes a gradient on its way in ways that the derivative of a training does not see."""

from torch import nn

_HOOKS = {
    "_backward_hooks": "register_full_backward_hook",
    "_backward_pre_hooks": "register_full_backward_pre_hook",
}
_OF_PARAMETERS = {
    "_backward_hooks": "register_hook",
    "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook",
}


def gradient_change(module: nn.Module) -> tuple[str, str] | None:
    """What of a module would be left out of its derivatives, and the remedy; None if nothing."""
    for name, parameter in module.named_parameters():
        for attribute, method in _OF_PARAMETERS.items():
            if parameter.requires_grad and getattr(parameter, attribute, None):
                return f"{name} has a hook on its gradient ({method}), which is not called", (
                    "remove it, and put what it does into the loss or the optimizer"
                )
    for name, part in module.named_modules():
        place = f"{name} ({type(part).__name__})" if name else type(part).__name__
        for attribute, method in _HOOKS.items():
            if getattr(part, attribute, None):
                return f"{place} has a hook on gradients ({method})", (
                    "remove it, and put what it does into the module's forward"
                )
        if not isinstance(part, nn.Embedding | nn.EmbeddingBag) or not part.weight.requires_grad:
            continue
        for option, why in (
            ("max_norm", "changes its weight outside of autograd"),
            ("scale_grad_by_freq", "has no right second derivative in torch"),
        ):
            if getattr(part, option, None):
                return f"{option} of {place} {why}", "leave it out"
    return None
