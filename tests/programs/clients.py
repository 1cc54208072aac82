"""Clients of a database in one process, each in a thread of its own. Reads lines "CLIENT K" from standard input, has that client
do its transaction number K, and answers with the same line. Ends at the end of its input."""
import queue
import sys
import threading


def run(clients, work):
    """work(client, tasks, done): does each transaction whose number `tasks` yields, and then calls done(number)."""
    said = threading.Lock()
    queues = [queue.Queue() for _ in range(clients)]

    def client_thread(client):
        def done(k):
            with said:
                print(client, k, flush=True)

        work(client, iter(queues[client].get, None), done)

    threads = [threading.Thread(target=client_thread, args=(client,)) for client in range(clients)]
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
