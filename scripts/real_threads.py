"""A program for scripts/real.sh: threads, and a callback from C through ctypes.

The threads sort numbers by libc's qsort with a comparison written in Python;
what they print doesn't depend on which of them runs first.
"""

import ctypes
import threading

libc = ctypes.CDLL(None)
Compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
libc.qsort.restype = None
libc.qsort.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, Compare]


@Compare
def compare(a, b):
    return a[0] - b[0]


def sort(results, index):
    numbers = (ctypes.c_int * 50)(*[(n * 37 + index) % 101 for n in range(50)])
    libc.qsort(numbers, len(numbers), ctypes.sizeof(ctypes.c_int), compare)
    results[index] = list(numbers)


results = [None] * 6
threads = [threading.Thread(target=sort, args=(results, index), name=f"sorter-{index}") for index in range(len(results))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for result in results:
    assert result == sorted(result)
    print(*result[:5])
