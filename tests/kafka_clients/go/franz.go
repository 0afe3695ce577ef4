//go:build ignore

// franz-go, as it is when nothing is configured: BOOTSTRAP APP PREFIX COUNT
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	bootstrap, app, prefix := os.Args[1], os.Args[2], os.Args[3]
	count, _ := strconv.Atoi(os.Args[4])
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumeTopics(app+".replies"))
	if err != nil {
		panic(err)
	}
	for n := range count {
		client.Produce(ctx, &kgo.Record{
			Topic: app + ".commands",
			Key:   []byte(fmt.Sprintf("Counter/%s-%d", prefix, n)),
			Value: []byte(`{"method":"increment","args":[1]}`),
		}, func(_ *kgo.Record, err error) {
			if err != nil {
				panic(err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		panic(err)
	}
	answered := map[string]bool{}
	for len(answered) < count && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
			if !strings.HasPrefix(string(record.Key), "Counter/"+prefix+"-") {
				return
			}
			answered[string(record.Key)] = true
			for _, header := range record.Headers {
				if header.Key == "outcome" {
					fmt.Println(string(record.Key), string(header.Value), string(record.Value))
				}
			}
		})
	}
}
