# lmdb.py DIRECTORY MODE CLIENTS: a process with a writer in each of some threads, told what to do as in clients.py.
# lmdb.py DIRECTORY read CLIENTS: prints a line a client: its counter, how many keys it has, and the last of them + 1.
import sys

import clients as driver

# Not this file.
sys.path.pop(0)
import lmdb

directory, mode, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])
environment = lmdb.open(directory, map_size=1 << 26, writemap=mode == "writemap", max_dbs=clients)
tables = [environment.open_db(b"sequence%d" % client) for client in range(clients)]


def number(value):
    return int(value) if value is not None else 0


def value(k):
    # Long ones go to pages of their own; only some, or the file would soon be full.
    return b"%d " % k * (10 + k * 37 % (3000 if k % 16 == 0 else 100))


def work(client, tasks, done):
    counter = b"counter%d" % client
    for k in tasks:
        with environment.begin(write=True) as transaction:
            transaction.put(b"%08d" % k, value(k), db=tables[client])
            transaction.put(counter, b"%d" % (number(transaction.get(counter)) + 1))
        done(k)


def read():
    with environment.begin() as transaction:
        for client in range(clients):
            rows = list(transaction.cursor(db=tables[client]))
            assert all(held == value(int(key)) for key, held in rows), "a wrong value"
            newest = int(rows[-1][0]) + 1 if rows else 0
            print(number(transaction.get(b"counter%d" % client)), len(rows), newest)


if mode == "read":
    read()
    sys.exit()
driver.run(clients, work)
