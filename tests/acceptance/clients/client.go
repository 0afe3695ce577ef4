// What Go's net/http does by itself: keep-alive, Content-Length if it knows the size, chunks if not.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

const add = `{"args":[5]}`

func main() {
	base, large := os.Args[1], make([]byte, 300000)
	ask("POST", base+"/rpc/Counter/go/add", strings.NewReader(add))
	ask("POST", base+"/rpc/Counter/go/add", io.MultiReader(strings.NewReader(add)))
	ask("POST", base+"/objects/Counter/go/size", bytes.NewReader(large))
	ask("POST", base+"/objects/Counter/go/size", io.MultiReader(bytes.NewReader(large)))
	ask("PUT", base+"/objects/Counter/go/size", nil)
	ask("POST", base+"/admin/objects/Counter/go/pause", strings.NewReader("{}"))
	ask("POST", base+"/admin/objects/Counter/go/resume", io.MultiReader(strings.NewReader("{}")))
	ask("GET", base+"/livez", nil)
	for n := 0; n < 3; n++ {
		http.DefaultClient.CloseIdleConnections()
		ask("POST", base+"/rpc/Counter/go/add", strings.NewReader(add), "Upgrade", "h2c", "Connection", "Upgrade")
	}
	ask("POST", base+"/rpc/Counter/go/add", strings.NewReader(add), "Expect", "100-continue")
}

func ask(method, url string, body io.Reader, headers ...string) {
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		panic(err)
	}
	for at := 0; at < len(headers); at += 2 {
		request.Header.Set(headers[at], headers[at+1])
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	told, err := io.ReadAll(answer.Body)
	if err != nil {
		panic(err)
	}
	fmt.Println(method, answer.StatusCode, string(told))
}
