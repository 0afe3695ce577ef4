//go:build ignore

// kafka-go, as it is when nothing is configured; it only produces: BOOTSTRAP APP PREFIX COUNT
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/segmentio/kafka-go"
)

func main() {
	count, _ := strconv.Atoi(os.Args[4])
	writer := &kafka.Writer{Addr: kafka.TCP(os.Args[1]), Topic: os.Args[2] + ".commands"}
	defer writer.Close()
	messages := make([]kafka.Message, count)
	for n := range count {
		messages[n] = kafka.Message{
			Key:   []byte(fmt.Sprintf("Counter/%s-%d", os.Args[3], n)),
			Value: []byte(`{"method":"increment","args":[1]}`),
		}
	}
	if err := writer.WriteMessages(context.Background(), messages...); err != nil {
		panic(err)
	}
}
