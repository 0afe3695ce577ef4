// Prints tests/unit/murmur2_vectors.json: what Kafka's own Java client makes of keys.
//
//     java -cp 'libs/*' tests/unit/Murmur2Vectors.java > tests/unit/murmur2_vectors.json
//
// `libs` holds kafka-clients (tests/kafka.py brings it). Each row: the key as hex, murmur2 as an unsigned
// number, and the partition of 1, 7, 12 and 64 that the default partitioner would choose.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.Utils;

public class Murmur2Vectors {
    public static void main(String[] args) {
        List<byte[]> keys = new ArrayList<>();
        StringBuilder name = new StringBuilder("Counter/");
        for (int n = 0; n < 40; n++) { // every tail length, many times
            keys.add(name.toString().getBytes(StandardCharsets.UTF_8));
            name.append((char) ('a' + n % 26));
        }
        String[] words = {"é", "ß", "ж", "語", "\uD83D\uDE80", "Åse", "naïve", "שלום", "日本語", "ok"};
        for (String word : words) {
            for (int n = 1; n <= 8; n++) {
                keys.add(("Room/" + word.repeat(n)).getBytes(StandardCharsets.UTF_8));
            }
        }
        Random random = new Random(1);
        for (int n = 0; n < 130; n++) { // bytes with the high bit set reach the sign traps
            byte[] raw = new byte[n % 67];
            random.nextBytes(raw);
            keys.add(raw);
        }
        StringBuilder out = new StringBuilder("[\n");
        for (int at = 0; at < keys.size(); at++) {
            byte[] key = keys.get(at);
            out.append(" [\"").append(HexFormat.of().formatHex(key)).append("\", ");
            out.append(Utils.murmur2(key) & 0xFFFFFFFFL).append(", [");
            int[] counts = {1, 7, 12, 64};
            for (int n = 0; n < counts.length; n++) {
                out.append(n == 0 ? "" : ", ").append(BuiltInPartitioner.partitionForKey(key, counts[n]));
            }
            out.append(at + 1 < keys.size() ? "]],\n" : "]]\n");
        }
        System.out.print(out.append("]\n"));
    }
}
