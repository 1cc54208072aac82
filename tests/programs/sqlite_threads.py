# sqlite_threads.py DATABASE MODE CLIENTS: a process with one connection a thread, told what to do as in clients.py.
import sqlite3
import sys

import clients as driver

database, mode, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])


def connect():
    connection = sqlite3.connect(database, timeout=60, isolation_level=None)
    connection.execute(f"pragma journal_mode = {mode}")
    connection.execute("pragma wal_autocheckpoint = 50")
    connection.execute("pragma synchronous = off")
    return connection


def work(client, tasks, done):
    connection = connect()
    for k in tasks:
        connection.execute("begin immediate")
        connection.execute(f"insert into sequence{client} values(?, hex(randomblob(?)))", (k, 100 + k * 37 % 1500))
        connection.execute(f"update counter{client} set n = n + 1")
        connection.execute("commit")
        done(k)


first = connect()
for client in range(clients):
    first.execute(f"create table sequence{client}(k integer primary key, pad)")
    first.execute(f"create table counter{client}(n)")
    first.execute(f"insert into counter{client} values(0)")
driver.run(clients, work)
