import java.time.Duration;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;

/** Spring's request and reply, as it is when nothing is configured: BOOTSTRAP APP REPLY_TOPIC KEY VALUE... */
public class Ask {
    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], app = args[1], replies = args[2], key = args[3];
        var producers = new DefaultKafkaProducerFactory<String, String>(
            Map.of("bootstrap.servers", bootstrap), new StringSerializer(), new StringSerializer());
        var consumers = new DefaultKafkaConsumerFactory<String, String>(
            Map.of("bootstrap.servers", bootstrap, "group.id", "spring-" + System.nanoTime()),
            new StringDeserializer(), new StringDeserializer());
        var container = new KafkaMessageListenerContainer<String, String>(consumers, new ContainerProperties(replies));
        var template = new ReplyingKafkaTemplate<String, String, String>(producers, container);
        template.setSharedReplyTopic(true);
        template.afterPropertiesSet();
        template.start();
        if (!template.waitForAssignment(Duration.ofSeconds(30))) throw new IllegalStateException("no assignment");
        for (int n = 4; n < args.length; n++) {
            var record = new ProducerRecord<String, String>(app + ".commands", key, args[n]);
            ConsumerRecord<String, String> answer =
                template.sendAndReceive(record, Duration.ofSeconds(30)).get(30, TimeUnit.SECONDS);
            var outcome = new String(answer.headers().lastHeader("outcome").value());
            System.out.println(outcome + " " + answer.value());
        }
        template.stop();
        producers.destroy();
        System.exit(0);
    }
}
