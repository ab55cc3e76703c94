// A C++17 program that links an installed heed: attends over two keys of equal score and expects the mean of the values.
#include <heed.h>

#include <iostream>
#include <memory>
#include <vector>

int main()
{
    const std::vector<float> q_data{1.0f, 1.0f}, k_data{1.0f, 0.0f, 0.0f, 1.0f}, v_data{1.0f, 2.0f, 3.0f, 4.0f};
    std::vector<float> out_data(2);
    heed_config config = HEED_CONFIG_INIT;
    heed_context *made = nullptr;
    if (heed_context_create(&config, &made, nullptr, 0) != HEED_OK)
        return 1;
    const std::unique_ptr<heed_context, void (*)(heed_context *)> context(made, heed_context_destroy);
    const heed_tensor q = heed_tensor_bhnd(q_data.data(), HEED_FLOAT32, 1, 1, 1, 2);
    const heed_tensor k = heed_tensor_bhnd(k_data.data(), HEED_FLOAT32, 1, 1, 2, 2);
    const heed_tensor v = heed_tensor_bhnd(v_data.data(), HEED_FLOAT32, 1, 1, 2, 2);
    const heed_tensor out = heed_tensor_bhnd(out_data.data(), HEED_FLOAT32, 1, 1, 1, 2);
    const heed_status status = heed_softmax_forward(context.get(), &q, &k, &v, nullptr, &out, nullptr);
    std::cout << "heed " << heed_version() << ": " << heed_status_text(status) << ", out = " << out_data[0] << ' '
              << out_data[1] << '\n';
    return status == HEED_OK && out_data[0] == 2.0f && out_data[1] == 3.0f ? 0 : 1;
}
