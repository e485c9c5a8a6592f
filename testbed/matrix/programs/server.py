# Answers a line "seq N" with the same, by asyncio, and counts in threads: every number goes through a queue to a thread,
# from there to the event loop, and back to a thread that prints it.
import asyncio, queue, sys, threading, time

to_thread, to_printer = queue.Queue(), queue.Queue()

def doubler(loop, numbers):
    while True:
        n = to_thread.get()
        loop.call_soon_threadsafe(numbers.put_nowait, 2 * n)

def printer():
    expected = 1
    while True:
        n = to_printer.get()
        if n != expected:
            sys.exit(f"the printer got {n} and not {expected}")
        print(f"tick {n} -", flush=True)
        expected += 1

def ticker():
    n = 0
    while True:
        n += 1
        to_thread.put(n)
        time.sleep(0.03)

async def forward(numbers):
    while True:
        to_printer.put(await numbers.get() // 2)

async def talk(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()

async def main():
    numbers = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for target, args in ((doubler, (loop, numbers)), (printer, ()), (ticker, ())):
        threading.Thread(target=target, args=args, daemon=True).start()
    server = await asyncio.start_server(talk, "0.0.0.0", 7000)
    await asyncio.gather(server.serve_forever(), forward(numbers))

asyncio.run(main())
