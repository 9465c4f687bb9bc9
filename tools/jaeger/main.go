//go:build tools

// Package tools pins Jaeger in go.mod and go.sum. A main package cannot be imported by a
// program; under a build tag nobody sets, the import only keeps its dependencies listed.
package tools

import _ "github.com/jaegertracing/jaeger/cmd/jaeger"
