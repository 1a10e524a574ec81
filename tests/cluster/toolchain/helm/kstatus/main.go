// Command kstatus reads objects (YAML documents or JSON, Lists too) on standard input and writes what kstatus, by which
// Helm and Flux wait, makes of each: [{"kind": ..., "name": ..., "status": ..., "message": ...}].
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

type answer struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func compute(object *unstructured.Unstructured) (answer, error) {
	result, err := status.Compute(object)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return answer{object.GetKind(), object.GetName(), result.Status.String(), result.Message}, nil
}

func computeAll(input io.Reader) ([]answer, error) {
	answers := []answer{}
	decoder := yaml.NewYAMLOrJSONDecoder(input, 4096)
	for {
		var document json.RawMessage
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return answers, nil
		} else if err != nil {
			return nil, err
		}
		if len(document) == 0 || string(document) == "null" {
			continue
		}
		object := &unstructured.Unstructured{}
		// Unlike encoding/json, this one reads whole numbers as int64, as kstatus expects.
		if err := object.UnmarshalJSON(document); err != nil {
			return nil, err
		}
		each := func(item *unstructured.Unstructured) error {
			computed, err := compute(item)
			answers = append(answers, computed)
			return err
		}
		if !object.IsList() {
			if err := each(object); err != nil {
				return nil, err
			}
			continue
		}
		if err := object.EachListItem(func(item runtime.Object) error {
			return each(item.(*unstructured.Unstructured))
		}); err != nil {
			return nil, err
		}
	}
}

func main() {
	answers, err := computeAll(os.Stdin)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answers)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
