"""Python's driver: start, watch, throttle, cancel, errors, two clients; through the port as two users, and at the socket."""
import sys
import threading
import time

from bson.int64 import Int64
from pymongo import MongoClient
from pymongo.errors import OperationFailure

backup, read, local = (MongoClient(uri, serverSelectionTimeoutMS=30000) for uri in sys.argv[1:])


def until(what, is_so):
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < 60, what
        time.sleep(0.01)


def refused(client, code, *command, **fields):
    try:
        answer = client.admin.command(*command, **fields)
    except OperationFailure as error:
        assert error.code == code, (command, error)
        return str(error)
    raise AssertionError((command, answer))


assert backup.admin.command("hello").get("compression") is None
idle = backup.admin.command("backupStatus")
assert idle == {"inProgress": False, "bytesCopied": 0, "filesCopied": 0, "ok": 1.0}, idle
assert isinstance(idle["bytesCopied"], Int64), type(idle["bytesCopied"])
refused(read, 13, "backupStart", "x")
refused(read, 13, "backupStatus")
assert "invalid destination directory: ''" in refused(backup, 2, "backupStart", "")
refused(backup, 40415, "backupStart", "x", typo=1)

# Paused, so that it cannot end by itself.
assert backup.admin.command("backupThrottle", 0) == {"ok": 1.0}
heard = []


def start(name):
    try:
        heard.append(backup.admin.command("backupStart", name))
    except OperationFailure as error:
        heard.append(error.code)


for end, dest, expected in [
    (lambda: local.admin.command("backupThrottle", Int64(2**40)), "python", {"ok": 1.0}),
    (lambda: backup.admin.command("backupCancel"), "gone", 11601),
]:
    waiting = threading.Thread(target=start, args=[dest])
    waiting.start()
    until("it runs", lambda: local.admin.command("backupStatus")["inProgress"])
    refused(local, 117, "backupStart", "second")
    assert not heard
    end()
    waiting.join()
    assert heard == [expected], heard
    heard.clear()
    backup.admin.command("backupThrottle", 0)

backup.admin.command("backupThrottle", None)
assert local.admin.command("createBackup", 1, backupDir="local") == {"ok": 1.0}
kinds = [(one["backup"].rsplit("/", 1)[1], one["succeeded"]) for one in backup.admin.command("backupList")["backups"]]
assert kinds == [("local", True), ("gone", False), ("python", True)], kinds
assert local.admin.command("backupVerify", "python")["good"]
