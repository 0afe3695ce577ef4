// rdkafka, as it is when nothing is configured: BOOTSTRAP APP PREFIX COUNT
use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

fn main() {
    let given: Vec<String> = std::env::args().collect();
    let (bootstrap, app, prefix) = (&given[1], &given[2], &given[3]);
    let count: usize = given[4].parse().unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    for n in 0..count {
        let key = format!("Counter/{prefix}-{n}");
        let call = r#"{"method":"increment","args":[1]}"#;
        producer.send(BaseRecord::to(&format!("{app}.commands")).key(&key).payload(call)).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();

    config.set("group.id", prefix).set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[&format!("{app}.replies")]).unwrap();
    let mut seen = HashSet::new();
    let until = Instant::now() + Duration::from_secs(60);
    while seen.len() < count {
        assert!(Instant::now() < until, "{} replies within a minute", seen.len());
        let Some(polled) = consumer.poll(Duration::from_secs(1)) else { continue };
        let record = polled.unwrap();
        let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
        if !key.starts_with(&format!("Counter/{prefix}-")) || !seen.insert(key.clone()) {
            continue;
        }
        let headers = record.headers().unwrap();
        let outcome = headers.iter().find(|each| each.key == "outcome").unwrap().value.unwrap();
        let value = String::from_utf8_lossy(record.payload().unwrap_or_default());
        println!("{key} {} {value}", String::from_utf8_lossy(outcome));
    }
}
