// rskafka, whose caller names the partition of each record (here: in turn): BOOTSTRAP APP PREFIX COUNT
use std::collections::{BTreeMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use rskafka::chrono::DateTime;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

/// A client of each partition of a topic.
async fn partitions(client: &Client, topic: &str) -> Vec<PartitionClient> {
    let topics = client.list_topics().await.unwrap();
    let found = topics.into_iter().find(|each| each.name == topic).expect("there is no such topic");
    let mut all = Vec::new();
    for partition in found.partitions {
        all.push(client.partition_client(topic, partition, UnknownTopicHandling::Retry).await.unwrap());
    }
    all
}

#[tokio::main]
async fn main() {
    let given: Vec<String> = std::env::args().collect();
    let (app, prefix) = (&given[2], &given[3]);
    let count: usize = given[4].parse().unwrap();
    let brokers = given[1].split(',').map(str::to_owned).collect();
    let client = ClientBuilder::new(brokers).build().await.unwrap();

    let commands = partitions(&client, &format!("{app}.commands")).await;
    for n in 0..count {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let record = Record {
            key: Some(format!("Counter/{prefix}-{n}").into_bytes()),
            value: Some(br#"{"method":"increment","args":[1]}"#.to_vec()),
            headers: BTreeMap::new(),
            timestamp: DateTime::from_timestamp_millis(now.as_millis() as i64).unwrap(),
        };
        commands[n % commands.len()].produce(vec![record], Compression::NoCompression).await.unwrap();
    }

    let replies = partitions(&client, &format!("{app}.replies")).await;
    let (mut next, mut seen) = (vec![0; replies.len()], HashSet::new());
    while seen.len() < count {
        for (partition, from) in replies.iter().zip(&mut next) {
            let (records, _) = partition.fetch_records(*from, 1..1_000_000, 100).await.unwrap();
            for each in records {
                *from = each.offset + 1;
                let key = String::from_utf8(each.record.key.unwrap_or_default()).unwrap_or_default();
                if !key.starts_with(&format!("Counter/{prefix}-")) || !seen.insert(key.clone()) {
                    continue;
                }
                let outcome = String::from_utf8_lossy(&each.record.headers["outcome"]).into_owned();
                let value = each.record.value.unwrap_or_default();
                println!("{key} {outcome} {}", String::from_utf8_lossy(&value));
            }
        }
    }
}
