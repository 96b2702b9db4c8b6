"""Events as moving bars on stderr; silent where nobody watches."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from .types import DenoiseStep, Event, PriorProgress


class Progress:
    """Show one bar for loading and two for each picture: prior tokens, denoise steps."""

    def __init__(self, num_images: int, *, visible: bool) -> None:
        self._visible, console = visible, Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not (visible and console.is_terminal),
        )
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._num_images = num_images

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Write one line above the bars, where nobody watches too."""
        if self._visible:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def load(self, component: str, done_bytes: int, total_bytes: int) -> None:
        """Show how much of a component is loaded, in MB."""
        done, total = done_bytes // 1_000_000, max(total_bytes // 1_000_000, 1)
        self._show("load", 0, f"load {component} (MB)", done, total)
        if done_bytes >= total_bytes:
            self._bars.remove_task(self._tasks.pop(("load", 0)))

    def show(self, event: Event) -> None:
        """Move the bar an event speaks of."""
        if isinstance(event, PriorProgress):
            name, done, total = "prior tokens", event.num_tokens, event.total_tokens
        elif isinstance(event, DenoiseStep):
            name, done, total = "denoise steps", event.step, event.num_inference_steps
        else:
            return
        index = event.image_index
        picture = f"picture {index + 1}: " if self._num_images > 1 else ""
        self._show(name, index, picture + name, done, total)

    def _show(self, name: str, index: int, description: str, done: int, total: int) -> None:
        key = (name, index)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(description, total=total)
        self._bars.update(self._tasks[key], description=description, completed=done, total=total)
