"""Keys typed faster than they are acted on wait, each until the one before it has done all it does.

Textual passes every key on at once. What a key sets off by a message, such as opening what is
under a cursor, is then overtaken by the next key, which would meet the screen before.
"""

import asyncio
import contextlib
from collections import deque

from textual import events
from textual.app import App
from textual.dom import DOMNode
from textual.message_pump import MessagePump

_ROUNDS = 3
"""A key comes back from the widgets, sets off a message, and that may set off another."""
_PATIENCE_SECONDS = 0.5
"""No key waits longer: what takes long goes on behind the keys."""


class TypeAheadApp(App[None]):
    """An app where keys take effect one after the other, on the screen that they were meant for."""

    def __init__(self, ansi_color: bool | None = None) -> None:
        """Nothing was typed yet."""
        super().__init__(ansi_color=ansi_color)
        self._typed: deque[events.Key | events.Paste] = deque()
        self._settling: asyncio.Task[None] | None = None

    async def on_event(self, event: events.Event) -> None:
        """Pass an event on; a key only once the one before it is done with."""
        if not isinstance(event, events.Key | events.Paste):
            await super().on_event(event)
        elif not self.screen_stack:
            # It is closing: nothing is left that a key could mean.
            return
        elif event.is_forwarded:
            await super().on_event(event)
        elif self._settling is not None:
            self._typed.append(event)
        else:
            await self._pass_on(event)

    async def _pass_on(self, event: events.Key | events.Paste) -> None:
        self._settling = asyncio.create_task(self._settle(self.focused or self.screen))
        await super().on_event(event)

    async def _settle(self, taker: DOMNode) -> None:
        """Wait until a key has passed through everything, then let the next one in."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                for _ in range(_ROUNDS):
                    for node in (*taker.ancestors_with_self, *self.screen_stack[-1:], self):
                        await _has_caught_up(node)
        self.call_later(self._let_in)

    async def _let_in(self) -> None:
        self._settling = None
        if self._typed and self.screen_stack:
            await self._pass_on(self._typed.popleft())


async def _has_caught_up(node: MessagePump) -> None:
    """Wait until a node has handled what it was sent; one that was taken away has."""
    done = asyncio.Event()
    if node.is_attached and node.call_later(done.set):
        await done.wait()
