module chihaya

go 1.19

require github.com/chihaya/chihaya v2.0.0-rc.2+incompatible

require (
	github.com/SermoDigital/jose v0.9.2-0.20180104203859-803625baeddc
	github.com/julienschmidt/httprouter v1.3.0
	github.com/mendsley/gojwk v0.0.0-20141217222730-4d5ec6e58103
	github.com/minio/sha256-simd v0.1.1
	github.com/prometheus/client_golang v0.9.4
	github.com/spf13/cobra v1.8.1
)

require github.com/Sirupsen/logrus v0.0.0-00010101000000-000000000000 // indirect

replace github.com/Sirupsen/logrus => github.com/sirupsen/logrus v1.9.3
