// Explains a photo without Python: loads a model that AOTInductor has compiled, and writes the class activation map of
// its best class. Usage: explain MODEL.pt2 PHOTO.ppm MAP.pgm
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

// A binary portable pixmap, as float32 (1, 3, height, width) in [0, 1].
static torch::Tensor read_photo(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, largest = 0;
  if (!(file >> magic >> width >> height >> largest) || magic != "P6" || largest != 255) {
    throw std::runtime_error(path + ": expected a binary PPM file with 8 bits");
  }
  file.get();
  auto pixels = torch::empty({height, width, 3}, torch::kUInt8);
  file.read(static_cast<char*>(pixels.data_ptr()), pixels.numel());
  return pixels.permute({2, 0, 1}).unsqueeze(0).to(torch::kFloat32) / 255;
}

static void write_map(const std::string& path, const torch::Tensor& map) {
  const auto levels = (map * 255).round().to(torch::kUInt8).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << levels.size(1) << " " << levels.size(0) << "\n255\n";
  file.write(static_cast<const char*>(levels.data_ptr()), levels.numel());
}

int main(int count, char** arguments) try {
  if (count != 4) throw std::runtime_error("usage: explain MODEL.pt2 PHOTO.ppm MAP.pgm");
  torch::inductor::AOTIModelPackageLoader model(arguments[1]);
  const auto outputs = model.run({read_photo(arguments[2])});
  std::cout << "class " << outputs[0].argmax(1).item<int64_t>() << "\n";
  write_map(arguments[3], outputs[1][0]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
