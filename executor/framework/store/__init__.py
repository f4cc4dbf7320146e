"""Where a framework keeps what must outlive it: one interface, three stores (SQLite, etcd, ZooKeeper)."""
