# sqlite_threads.py DATABASE MODE CLIENTS: a process with one connection a thread. Reads lines "CLIENT K", has that client do
# its transaction number K, and answers with the same line. Ends at the end of its input.
import queue
import sqlite3
import sys
import threading

database, mode, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])
said = threading.Lock()


def connect():
    connection = sqlite3.connect(database, timeout=60, isolation_level=None)
    connection.execute(f"pragma journal_mode = {mode}")
    connection.execute("pragma wal_autocheckpoint = 50")
    connection.execute("pragma synchronous = off")
    return connection


def work(client, tasks):
    connection = connect()
    for k in iter(tasks.get, None):
        connection.execute("begin immediate")
        connection.execute(f"insert into sequence{client} values(?, hex(randomblob(?)))", (k, 100 + k * 37 % 1500))
        connection.execute(f"update counter{client} set n = n + 1")
        connection.execute("commit")
        with said:
            print(client, k, flush=True)


first = connect()
for client in range(clients):
    first.execute(f"create table sequence{client}(k integer primary key, pad)")
    first.execute(f"create table counter{client}(n)")
    first.execute(f"insert into counter{client} values(0)")
queues = [queue.Queue() for _ in range(clients)]
threads = [threading.Thread(target=work, args=(client, tasks)) for client, tasks in enumerate(queues)]
for thread in threads:
    thread.start()
print("ready", flush=True)
for line in sys.stdin:
    client, k = map(int, line.split())
    queues[client].put(k)
for tasks in queues:
    tasks.put(None)
for thread in threads:
    thread.join()
