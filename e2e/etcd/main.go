// Command etcd is the etcd server of the pinned module. That module ships its main package under a module path that
// cannot be required (go.etcd.io/etcd/v3 has replace lines of its own), so its one line lives here.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
