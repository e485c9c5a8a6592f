package images

// Subjects is an image with the test program, given as the path of its static binary, and the servers that it starts and works
// with.
func Subjects(workload string) Image {
	i := Tools(workload)
	i.Name = "testbed/subjects:latest"
	i.Layers = []Layer{
		i.Layers[0],
		{Packages: []string{"bsh", "default-jre-headless", "postgresql", "redis-server"}},
		i.Layers[1],
	}
	return i
}
