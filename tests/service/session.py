"""A client that stays: each line of input is a command for admin as JSON, each line of output what became of it."""
import sys

from bson import json_util
from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

client = MongoClient(sys.argv[1], serverSelectionTimeoutMS=2000, maxPoolSize=1)
for line in sys.stdin:
    try:
        said = {"answer": client.admin.command(json_util.loads(line))}
    except OperationFailure as error:
        said = {"refused": error.code, "kind": (error.details or {}).get("kind")}
    except ConnectionFailure as error:
        said = {"lost": type(error).__name__}
    print(json_util.dumps(said), flush=True)
