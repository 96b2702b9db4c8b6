"""A TCP proxy that misbehaves as it is told: cuts, refuses, slows down, swallows everything."""

import asyncio
import contextlib
import threading

CHUNK_BYTES = 64 * 1024


class FaultProxy:
    """Forward a port of this machine to `target`, (host, port), from a thread of its own."""

    def __init__(self, target):
        self.target = target
        self.delay_s = 0.0
        self.num_accepted = 0
        self._refusing = False
        self._open = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self.port = self._call(self._listen())
        return self

    def __exit__(self, *error):
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self):
        """Break every connection, and each new one at once, until `restore`."""
        self._refusing = True
        self._call(self._break_all())

    def break_once(self):
        """Break every connection; new ones are served."""
        self._call(self._break_all())

    def stall(self):
        """Forward nothing more, and break nothing either, as a network does that is parted."""
        self._call(self._set_moving(False))

    def restore(self):
        """Be an honest proxy again."""
        self._refusing, self.delay_s = False, 0.0
        self._call(self._set_moving(True))

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self):
        self._moving = asyncio.Event()
        self._moving.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _close(self):
        self._server.close()
        self._moving.set()
        await self._break_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set_moving(self, moving):
        (self._moving.set if moving else self._moving.clear)()

    async def _break_all(self):
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        # streams log a handler that was cancelled; this one just ends
        with contextlib.suppress(asyncio.CancelledError):
            await self._forward(reader, writer)

    async def _forward(self, reader, writer):
        self.num_accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._open |= both
        try:
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        finally:
            self._open -= both
            for one in both:
                one.transport.abort()

    async def _copy(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._moving.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()
