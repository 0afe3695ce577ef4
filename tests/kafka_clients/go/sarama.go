//go:build ignore

// sarama, as it is when nothing is configured; it only produces: BOOTSTRAP APP PREFIX COUNT
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/IBM/sarama"
)

func main() {
	count, _ := strconv.Atoi(os.Args[4])
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true // a SyncProducer asks for it
	producer, err := sarama.NewSyncProducer([]string{os.Args[1]}, config)
	if err != nil {
		panic(err)
	}
	defer producer.Close()
	for n := range count {
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{
			Topic: os.Args[2] + ".commands",
			Key:   sarama.StringEncoder(fmt.Sprintf("Counter/%s-%d", os.Args[3], n)),
			Value: sarama.StringEncoder(`{"method":"increment","args":[1]}`),
		})
		if err != nil {
			panic(err)
		}
	}
}
