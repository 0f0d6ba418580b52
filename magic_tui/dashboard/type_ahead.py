"""Handle keys strictly one after the other.

Textual dispatches every key at once. A key may act through a message, such as opening the item
under the cursor. The next key would overtake that message and reach the previous screen.
"""

import asyncio
import contextlib
from collections import deque

from textual import events
from textual.app import App
from textual.dom import DOMNode
from textual.message_pump import MessagePump

_ROUNDS = 3
"""A key bubbles up, posts a message, and the handler may post another."""
_TIMEOUT_SECONDS = 0.5
"""The longest wait of a key; slower actions continue in the background."""


class TypeAheadApp(App[None]):
    """An app that dispatches a key once the previous one is handled."""

    def __init__(self, ansi_color: bool | None = None) -> None:
        """No key is waiting."""
        super().__init__(ansi_color=ansi_color)
        self._typed: deque[events.Key | events.Paste] = deque()
        self._settling: asyncio.Task[None] | None = None

    async def on_event(self, event: events.Event) -> None:
        """Dispatch an event; queue a key while another is being handled."""
        if not isinstance(event, events.Key | events.Paste):
            await super().on_event(event)
        elif not self.screen_stack:
            # The app is closing.
            return
        elif event.is_forwarded:
            await super().on_event(event)
        elif self._settling is not None:
            self._typed.append(event)
        else:
            await self._dispatch(event)

    async def _dispatch(self, event: events.Key | events.Paste) -> None:
        self._settling = asyncio.create_task(self._settle(self.focused or self.screen))
        await super().on_event(event)

    async def _settle(self, target: DOMNode) -> None:
        """Wait until a key is handled everywhere, then dispatch the next one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                for _ in range(_ROUNDS):
                    for node in (*target.ancestors_with_self, *self.screen_stack[-1:], self):
                        await _idle(node)
        self.call_later(self._dispatch_next)

    async def _dispatch_next(self) -> None:
        self._settling = None
        if self._typed and self.screen_stack:
            await self._dispatch(self._typed.popleft())


async def _idle(node: MessagePump) -> None:
    """Wait until a node has handled its messages; returns at once if it was removed."""
    done = asyncio.Event()
    if node.is_attached and node.call_later(done.set):
        await done.wait()
