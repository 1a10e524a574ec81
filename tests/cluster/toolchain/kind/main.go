// Command kind-config reads a kind cluster configuration on standard input as `kind create cluster` does.
// It tells what is wrong with it and exits with 1, or says nothing.
package main

import (
	"fmt"
	"io"
	"os"

	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/internal/apis/config/encoding"
)

func check(input io.Reader) error {
	text, err := io.ReadAll(input)
	if err != nil {
		return err
	}
	config, err := encoding.Parse(text)
	if err != nil {
		return err
	}
	if config.Name == "" {
		config.Name = cluster.DefaultName
	}
	return config.Validate()
}

func main() {
	if err := check(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
