#include "container/proxy.h"

namespace fbroker::container {

std::vector<std::pair<std::string, std::string>> proxy_environment(const std::string& proxy) {
  const std::string http = "http://" + proxy;
  const std::string direct = "localhost,127.0.0.1,::1";
  std::vector<std::pair<std::string, std::string>> inside;
  // Both spellings: curl reads http_proxy in small letters only, others the large.
  // ALL_PROXY names the HTTP proxy as well, though SOCKS5 is spoken there too:
  // with socks5h:// every client made of Python's httpx ends with an ImportError
  // (Aider issue 3048; the SDKs of OpenAI and Anthropic), HTTPS_PROXY or not.
  for (const char* name : {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"})
    inside.emplace_back(name, http);
  for (const char* name : {"NO_PROXY", "no_proxy"}) inside.emplace_back(name, direct);
  inside.emplace_back("NODE_USE_ENV_PROXY", "1");  // fetch() of Node 22.21, 24 and later
  // Above the repository's own configuration, which the agent may not change.
  inside.emplace_back("GIT_CONFIG_COUNT", "1");
  inside.emplace_back("GIT_CONFIG_KEY_0", "http.proxy");
  inside.emplace_back("GIT_CONFIG_VALUE_0", http);
  return inside;
}

}  // namespace fbroker::container
