import java.util.ArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** What the virtual machine does with threads and signals; for java.sh. */
public class Threads {
    static long work(int number) {
        long sum = 0;
        for (int i = 0; i < 200_000; i++)
            sum += i * number % 7;
        return sum + new byte[100_000].length;
    }

    static int endless(int depth) {
        return endless(depth + 1) + 1;
    }

    static void overflow(String who) {
        try {
            endless(0);
        } catch (StackOverflowError error) {
            System.out.println(who + ": " + error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        var pool = Executors.newFixedThreadPool(6);
        var results = new ArrayList<Future<Long>>();
        for (int i = 0; i < 40; i++) {
            int number = i;
            results.add(pool.submit(() -> work(number)));
        }
        long sum = 0;
        for (var result : results)
            sum += result.get();
        pool.shutdown();
        System.out.println(sum);

        try {
            ((Object) null).toString();
        } catch (NullPointerException exception) {
            System.out.println("a fault");
        }
        overflow("main");
        var small = new Thread(null, () -> overflow("thread"), "small", 1 << 20);
        small.start();
        small.join();

        var child = new ProcessBuilder("sh", "-c", "echo a child; exit 2").inheritIO().start();
        System.out.println(child.waitFor());
        System.exit(3);
    }
}
