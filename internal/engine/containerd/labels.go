package containerd

import (
	"maps"
	"strings"

	"migrate/internal/engine/imagestore"
)

// Labels of containerd's restart monitor (containerd, core/runtime/restart). While a migration is under way it must not see the
// container: at the destination it would start a fresh one in place of the one being restored.
const (
	restartPrefix   = "containerd.io/restart."
	restartStatus   = restartPrefix + "status"
	restartExplicit = restartPrefix + "explicitly-stopped"
	restartLogURI   = restartPrefix + "loguri"
)

// Labels by which containerd's parts tell each other what to do. A peer has no say in them.
const (
	gcPrefix    = "containerd.io/gc."
	snapshotRef = "containerd.io/snapshot.ref"
)

// recordLabels are the labels a container record gets while it is being restored.
func recordLabels(labels map[string]string) map[string]string {
	out := adoptedLabels(labels)
	maps.DeleteFunc(out, func(key, _ string) bool { return strings.HasPrefix(key, restartPrefix) })
	return out
}

// adoptedLabels are the labels it has afterwards: the source's, but for those that would rule this host. The restart
// monitor runs what a binary log URI names.
func adoptedLabels(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	maps.DeleteFunc(out, func(key, value string) bool {
		return strings.HasPrefix(key, gcPrefix) || key == hiddenStatus || key == restartLogURI && !strings.HasPrefix(value, "file:")
	})
	return out
}

// storeLabels are the labels an image or a snapshot gets.
func storeLabels(labels map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range labels {
		if !strings.HasPrefix(key, gcPrefix) && key != snapshotRef && key != imagestore.OwnerLabel {
			out[key] = value
		}
	}
	return out
}
