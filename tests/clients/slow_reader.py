"""A raw reader that is being sent an answer while what it consists of goes:

    with SlowReader(server, "t", 8_000_000) as reader:  # has begun to read
        ...
        high, stable, aborted, records = reader.rest()
"""

import socket
import struct

from kafka.record import MemoryRecords


def fetch_request(topic, offset, most):
    body = struct.pack(">iiiibi", -1, 1000, 1, most, 0, 1)
    body += struct.pack(">h", len(topic)) + topic.encode() + struct.pack(">iiqi", 1, 0, offset, most)
    head = struct.pack(">hhih", 1, 4, 77, 4) + b"slow"
    return struct.pack(">i", len(head + body)) + head + body


class SlowReader:
    """Asks for partition 0 from its beginning, at most so many bytes, and reads a little of the answer."""

    def __init__(self, server, topic, most):
        self.topic, self.socket = topic, socket.create_connection(("127.0.0.1", server.port), 60)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.socket.settimeout(120)
        self.socket.sendall(fetch_request(topic, 0, most))
        self.got = self.socket.recv(1000)

    def rest(self):
        """The partition's high watermark, stable offset and aborted transactions, and the records."""
        got = bytearray(self.got)
        while len(got) < 4 or len(got) < 4 + struct.unpack(">i", got[:4])[0]:
            more = self.socket.recv(1 << 16)
            assert more, "the server closed in the middle"
            got += more
        at = 4 + 4 + 4 + 4 + 2 + len(self.topic) + 4 + 4  # length, correlation, throttle, topics, name, partitions, number
        error, high, stable, aborted, size = struct.unpack(">hqqii", got[at:at + 26])
        assert error == 0 and at + 26 + size == len(got), (error, size, len(got))
        return high, stable, aborted, list(self.records(MemoryRecords(bytes(got[at + 26:]))))

    @staticmethod
    def records(batches):
        while batches.has_next():
            yield from batches.next_batch()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.socket.close()
