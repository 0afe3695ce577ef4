import io.smallrye.reactive.messaging.kafka.KafkaRecord;
import io.smallrye.reactive.messaging.kafka.api.IncomingKafkaRecordMetadata;
import io.smallrye.reactive.messaging.kafka.reply.KafkaRequestReply;
import jakarta.enterprise.context.ApplicationScoped;
import jakarta.enterprise.inject.se.SeContainerInitializer;
import jakarta.inject.Inject;
import java.time.Duration;
import java.util.Map;
import org.eclipse.microprofile.reactive.messaging.Channel;
import org.eclipse.microprofile.reactive.messaging.Message;

/** SmallRye's request and reply (MicroProfile), as it is by default: BOOTSTRAP APP REPLY_TOPIC KEY VALUE... */
@ApplicationScoped
public class Ask {
    @Inject @Channel("calls") KafkaRequestReply<String, String> calls;

    public void ask(String key, String value) {
        Message<String> answer = calls.request(KafkaRecord.of(key, value)).await().atMost(Duration.ofSeconds(30));
        var headers = answer.getMetadata(IncomingKafkaRecordMetadata.class).orElseThrow().getHeaders();
        System.out.println(new String(headers.lastHeader("outcome").value()) + " " + answer.getPayload());
    }

    public static void main(String[] args) {
        String text = "org.apache.kafka.common.serialization.String";
        Map.of(
            "connector", "smallrye-kafka",
            "bootstrap.servers", args[0],
            "topic", args[1] + ".commands",
            "key.serializer", text + "Serializer",
            "value.serializer", text + "Serializer",
            "reply.topic", args[2],
            "reply.key.deserializer", text + "Deserializer",
            "reply.value.deserializer", text + "Deserializer"
        ).forEach((name, value) -> System.setProperty("mp.messaging.outgoing.calls." + name, value));
        try (var container = SeContainerInitializer.newInstance().initialize()) {
            var client = container.select(Ask.class).get();
            for (int n = 4; n < args.length; n++) client.ask(args[3], args[n]);
            Runtime.getRuntime().halt(0);  // its threads would stay
        } catch (Throwable error) {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
    }
}
