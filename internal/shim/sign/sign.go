// Package sign is by what programs that do not contain the shim recognise it.
package sign

// Name is the name of the runtime, from which containerd makes the name of the shim's program.
const Name = "io.containerd.migrate.v1"

// Holds is an annotation of what the shim says of itself (containerd, RuntimeInfo). Its value is the point at which a restore is held
// whose network the engine connects between create and start.
const Holds = "migrate.holds-restores"

// StockName is the name of the runtime that engines use unless told otherwise. A host may have the shim in its place.
const StockName = "io.containerd.runc.v2"
