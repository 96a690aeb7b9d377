"""A module that looks like the one it contains: names, state, attributes, signature."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from cycledistill._errors import raise_not_for_wrappers

PLAIN = "plain"
TEACHER = "cycle_teacher"


class Facade(nn.Module):
    """Contains a model as ``plain`` and looks like it from outside.

    Names of modules and parameters, ``state_dict`` keys, attributes and the signature of
    ``forward`` are the model's, so rules based on names (no weight decay for ``pos_embed``,
    layer-wise learning rates, sharding plans) and trainers that inspect the signature treat it
    like the model. The teacher-only parameters, if any, are visible as ``cycle_teacher``.

    Args:
        plain: The model.
        keywords: Keyword-only parameters that ``forward`` takes in addition to the model's.
    """

    plain: nn.Module

    def __init__(self, plain: nn.Module, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self._keywords = keywords
        self._original: tuple[nn.Module, ...] = (plain,)  # in a tuple: not a child
        self.plain = plain
        # The model's own: tools look up tensors of the root module by name, its state calls hooks.
        tensors = ("_parameters", "_buffers", "_non_persistent_buffers_set")
        hooks = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")
        for shared in (*tensors, *hooks):
            self.__dict__[shared] = plain.__dict__[shared]
        self._load_prefix = ""
        self.register_load_state_dict_post_hook(_use_plain_names)
        self._bind_forward()

    # Names

    def named_modules(
        self,
        memo: set[nn.Module] | None = None,
        prefix: str = "",
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, nn.Module]]:
        """The plain model's modules under their own names, then the teacher-only ones."""
        memo = set() if memo is None else memo
        if remove_duplicate and self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                below = prefix if name == PLAIN else f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, below, remove_duplicate)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The plain model's children, then the teacher-only one."""
        if torch.jit._trace._trace_module_map is not None:  # tracing, which needs true names
            raise_not_for_wrappers("torch.jit.trace")
        for name, module in self._modules.items():
            if name == PLAIN and module is not None:
                yield from module.named_children()
            elif module is not None:
                yield name, module

    def children(self) -> Iterator[nn.Module]:
        """The modules that recursive calls, such as ``apply``, descend into: the plain model."""
        return (module for module in self._modules.values() if module is not None)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child to the plain model.

        A tool that builds a copy of a model from its children (accelerate's ``compile_regions``)
        first removes all of them from the copy; they are then added to a copy of the plain model.
        """
        if name in (PLAIN, TEACHER):
            super().add_module(name, module)
            return
        if self._modules.get(PLAIN) is None:
            (original,) = self._original
            plain = original.__class__.__new__(original.__class__)
            plain.__dict__.update(original.__dict__)
            plain._modules = dict(original._modules)
            self._original = (plain,)
            self._modules[PLAIN] = plain
        self.plain._modules[name] = module

    def get_submodule(self, target: str) -> nn.Module:
        """The plain model's submodule of that name."""
        if not target:
            return self
        own = target == TEACHER or target.startswith(f"{TEACHER}.")
        return super().get_submodule(target) if own else self.plain.get_submodule(target)

    # State

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The plain model's state, and teacher-only parameters under ``cycle_teacher.``."""
        state = self.plain.state_dict(*args, **kwargs)
        teacher = self._modules.get(TEACHER)
        if teacher is not None:
            prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
            keep = kwargs.get("keep_vars", args[2] if len(args) > 2 else False)
            teacher.state_dict(destination=state, prefix=f"{prefix}{TEACHER}.", keep_vars=keep)
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state of the plain model or of a wrapper with the same teacher-only parameters."""
        plain, teacher = self.plain, self._modules.get(TEACHER)
        lent = [
            plain.register_load_state_dict_post_hook(lambda _, keys, own=hook: own(self, keys))  # type: ignore[misc]
            for hook in self._load_state_dict_post_hooks.values()
            if hook is not _use_plain_names
        ]
        if teacher is not None:  # for a while, so that all names are those of the state
            plain._modules[TEACHER] = teacher
        try:
            return plain.load_state_dict(state_dict, strict=strict, assign=assign)
        finally:
            plain._modules.pop(TEACHER, None)
            for handle in lent:
                handle.remove()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        """Rename the plain model's keys to those that torch looks up."""
        self._load_prefix = prefix
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key[len(prefix) :]
            if not name.startswith(f"{TEACHER}."):
                state_dict[f"{prefix}{PLAIN}.{name}"] = state_dict.pop(key)

    def _fqn_modifiers(self) -> dict[str, str]:
        """Tell torch.distributed.checkpoint that keys do not contain "plain"."""
        return {PLAIN: PLAIN}

    # Attributes

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            plain = self.__dict__.get("_modules", {}).get(PLAIN)
            if plain is None:
                if name == PLAIN:
                    raise RuntimeError(
                        "this CycleWrapper was unwrapped; wrap the model again to cycle it"
                    ) from None
                raise
            return getattr(plain, name)

    def __setattr__(self, name: str, value: Any) -> None:
        plain = self.__dict__.get("_modules", {}).get(PLAIN)
        if name == "parametrizations":  # torch makes properties of the class, here the wrong one
            _raise_not_of_wrappers("torch.nn.utils.parametrize")
        lacks = isinstance(value, Tensor) and not hasattr(plain, name)
        if lacks and any(f"{name}_{end}" in self._parameters for end in ("g", "orig")):
            _raise_not_of_wrappers("torch.nn.utils.weight_norm, spectral_norm and prune")
        own = name in self.__dict__ or name in (PLAIN, TEACHER) or hasattr(type(self), name)
        private = name.startswith("_")  # frameworks set these on the wrapper itself
        child = isinstance(value, nn.Module)  # state and names are the plain model's
        if own or private or plain is None or not (child or hasattr(plain, name)):
            super().__setattr__(name, value)
        else:
            setattr(plain, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__ or name in self._modules:
            super().__delattr__(name)
        else:
            delattr(self.plain, name)

    def __prepare_scriptable__(self) -> Facade:
        """Called by torch.jit.script."""
        raise_not_for_wrappers("torch.jit.script")

    # Signature and copies

    def _bind_forward(self) -> None:
        """Set a ``forward`` on this instance whose signature is the plain model's plus ours."""
        forward = type(self).forward
        own = types.FunctionType(
            forward.__code__,
            forward.__globals__,
            forward.__name__,
            forward.__defaults__,
            forward.__closure__,
        )
        own.__kwdefaults__ = forward.__kwdefaults__
        own.__doc__ = forward.__doc__
        own.__signature__ = self._signature()  # type: ignore[attr-defined]
        self.__dict__["forward"] = types.MethodType(own, self)

    def _signature(self) -> inspect.Signature:
        ours = inspect.signature(type(self).forward).parameters
        kept = [ours["self"].replace(kind=inspect.Parameter.POSITIONAL_ONLY)]
        plain = inspect.signature(self.plain.forward).parameters.values()
        kept += [p for p in plain if p.kind is not p.VAR_KEYWORD and p.name not in self._keywords]
        kept += [ours[name] for name in self._keywords]
        return inspect.Signature(kept + [p for p in plain if p.kind is p.VAR_KEYWORD])

    def _has_own_forward(self) -> bool:
        """Whether ``forward`` is ours, not one that a tool has set."""
        forward = self.__dict__.get("forward")
        function = getattr(forward, "__func__", None)
        return getattr(function, "__code__", None) is type(self).forward.__code__

    def __copy__(self) -> Facade:
        """Another wrapper of the same model, as `torch.nn.DataParallel` needs."""
        copy = self.__class__.__new__(self.__class__)
        copy.__dict__.update(self.__dict__, _modules=dict(self._modules))
        if self._has_own_forward():
            copy._bind_forward()
        return copy

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._bind_forward()
        return replica

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._has_own_forward():
            del state["forward"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if PLAIN in self._modules and "forward" not in state:
            self._bind_forward()


def _raise_not_of_wrappers(tool: str) -> NoReturn:
    raise TypeError(f"{tool}: expected a plain model, got a CycleWrapper: give it cycled.plain")


def _use_plain_names(facade: Facade, keys: Any) -> None:
    """Report missing and unexpected keys under the plain model's names."""
    prefix = facade._load_prefix
    ours = f"{prefix}{PLAIN}."
    for names in keys:
        names[:] = [prefix + n[len(ours) :] if n.startswith(ours) else n for n in names]
