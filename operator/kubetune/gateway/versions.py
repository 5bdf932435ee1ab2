"""One version of a model that the engine answers for."""

from dataclasses import dataclass, field
from pathlib import Path

from kubetune.api.table import TableAdapter
from kubetune.gateway.chat import ChatTemplate
from kubetune.gateway.inflight import InFlight


@dataclass(eq=False)
class Version:
    """A model under the engine's name for it. Compared by identity: loaded twice is two versions."""

    alias: str
    """The name that clients use."""
    engine_name: str
    """The name that the engine uses."""
    adapter: TableAdapter | None = None
    """None for the base."""
    path: Path | None = None
    """The verified copy; None for the base."""
    chat_template: ChatTemplate | None = None
    """What chats are written in; None: the base's."""
    end: int | None = None
    """A token that ends answers as the base's own does; None: no other does."""
    requests: InFlight = field(default_factory=InFlight)
    """It is not unloaded while there are any."""
    retiring: bool = False
    """Whether it is unloaded as soon as it is idle."""

    @property
    def digest(self) -> str | None:
        """Which version of the adapter this is."""
        return self.adapter.digest if self.adapter else None
