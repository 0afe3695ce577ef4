//go:build ignore

// Checks Prometheus' rule files (arguments) and expressions (stdin, one a line) by its own parser.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	wrong := 0
	for _, file := range os.Args[1:] {
		if _, errs := rulefmt.ParseFile(file); len(errs) > 0 {
			fmt.Println(file, errs)
			wrong++
		}
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, err := parser.ParseExpr(lines.Text()); err != nil {
			fmt.Println(lines.Text(), err)
			wrong++
		}
	}
	if wrong > 0 {
		os.Exit(1)
	}
}
