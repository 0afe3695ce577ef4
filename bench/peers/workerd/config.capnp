# The socket's address and the disk's path are overridden on the command line.
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [ (name = "main", worker = .counters), (name = "disk", disk = (path = "data", writable = true)) ],
  sockets = [ (name = "http", address = "127.0.0.1:8788", http = (), service = "main") ]
);
const counters :Workerd.Worker = (
  modules = [ (name = "worker.js", esModule = embed "worker.js") ],
  compatibilityDate = "2026-01-01",
  durableObjectNamespaces = [
    (className = "Counter", uniqueKey = "counter", enableSql = true),
    (className = "Room", uniqueKey = "room", enableSql = true) ],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [
    (name = "COUNTER", durableObjectNamespace = "Counter"), (name = "ROOM", durableObjectNamespace = "Room") ]
);
