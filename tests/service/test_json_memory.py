"""No JSON body takes more resident memory than its charge, however deep it is nested."""

import json
import os
import subprocess
import sys

from service.__main__ import MALLOC
from service.wire import json_codec

MIB = 2**20

FIXED_BYTES = 8 * MIB
"""Memory that a child process takes for itself."""

PROGRAM = """
import json, os, re, sys
from service.errors import ServiceError
from service.wire import json_codec

ITEMS = "[]", "[" * 7 + "]" * 7, "[" * 1000 + "]" * 1000, '{"":' * 30 + "1" + "}" * 30

def kilobytes(name):
    return int(re.search(name + r":\\s*(\\d+)", open("/proc/self/status").read())[1])

json_codec.decode(b'{"q": [1]}')
found = []
for item in ITEMS:
    text = ",".join([item] * (2**20 // len(item)))
    body = b'{"q":[%s]}' % text.encode()
    reader, writer = os.pipe()
    # a new process for each: the memory that the allocator keeps would hide what a body takes
    if not os.fork():
        before = kilobytes("VmRSS")
        try:
            json_codec.decode(body)
        except ServiceError:
            pass
        os.write(writer, b"%d" % ((kilobytes("VmHWM") - before) * 1024))
        os._exit(0)
    os.wait()
    found.append((len(body), len(body) + int(os.read(reader, 20)), item[:20]))
print(json.dumps(found))
"""


def test_no_body_takes_more_than_its_charge():
    environment = os.environ | {"GLIBC_TUNABLES": MALLOC}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120, env=environment)
    found = json.loads(done.stdout)
    assert len(found) == 4
    for num_bytes, taken, item in found:
        assert taken < num_bytes * json_codec.memory_factor + FIXED_BYTES, item
