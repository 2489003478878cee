"""The load of the bed memcached: eight clients at once, then all that is stored.

    memcached.py SOCKET
"""

import hashlib
import socket
import sys
import threading
import time

CLIENTS, KEYS = 8, 1000


class Client:
    def __init__(self):
        deadline = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(sys.argv[1])
                break
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
        self.file = connection.makefile("rwb")
        connection.close()

    def ask(self, request):
        self.file.write(request)
        self.file.flush()
        return self.file.readline().rstrip()

    def set(self, key, value):
        assert self.ask(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value)) == b"STORED"

    def get(self, key):
        if self.ask(b"get %s\r\n" % key) == b"END":
            return None
        value = self.file.readline().rstrip()
        assert self.file.readline() == b"END\r\n"
        return value


def load(number):
    client = Client()
    for i in range(KEYS):
        client.set(b"%d.%d" % (number, i), b"%d-%d-" % (number, i) * (i % 50 + 1))
        assert client.get(b"%d.%d" % (number, i // 2)) is not None
        client.ask(b"incr counter 1\r\n")


first = Client()
first.set(b"counter", b"0")
threads = [threading.Thread(target=load, args=(number,)) for number in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(first.get(b"counter").decode())
everything = b"".join(first.get(b"%d.%d" % (number, i)) for number in range(CLIENTS) for i in range(KEYS))
print(hashlib.sha1(everything).hexdigest())
